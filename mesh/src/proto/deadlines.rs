//! When nobody wants the messages of a flow any more. What came to it in a row with one deadline is a group, so that a message
//! costs no place of its own in any order of time.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::flow::MessageId;
use super::spare::give_back;
use super::time::Micros;

/// A row of messages with one deadline.
#[derive(Debug)]
struct Group {
    at: Micros,
    first: MessageId,
    last: MessageId,
    undecided: usize,
}

impl Group {
    fn key(&self) -> (Micros, MessageId) {
        (self.at, self.first)
    }
}

/// Groups that room is kept for whatever there is.
const KEPT_MAX: usize = 8;

/// The deadlines of one flow.
#[derive(Debug)]
pub struct Deadlines {
    /// By deadline and first message. Most come behind all others, and leave in front.
    groups: VecDeque<Group>,
    /// The group that the latest message is of.
    latest: (Micros, MessageId),
    /// When the flow's alarm rings, which is at its earliest deadline or before.
    alarm: Micros,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { groups: VecDeque::new(), latest: (Micros(0), MessageId(0)), alarm: Micros::NEVER }
    }
}

impl Deadlines {
    /// Takes a message in, which is later than all before. Gives the first message of its group, which names the group.
    pub fn add(&mut self, at: Micros, id: MessageId) -> MessageId {
        if self.latest.0 == at
            && let Some(place) = self.find(self.latest)
        {
            let group = &mut self.groups[place];
            (group.last, group.undecided) = (id, group.undecided + 1);
            return group.first;
        }
        self.latest = (at, id);
        let place = match self.groups.back() {
            Some(last) if at < last.at => self.groups.partition_point(|group| group.at <= at),
            _ => self.groups.len(),
        };
        self.groups.insert(place, Group { at, first: id, last: id, undecided: 1 });
        id
    }

    /// Where a group is: most often it is the first one.
    fn find(&self, key: (Micros, MessageId)) -> Option<usize> {
        if self.groups.front()?.key() == key {
            return Some(0);
        }
        self.groups.binary_search_by_key(&key, Group::key).ok()
    }

    /// A message of this group is decided.
    pub fn remove(&mut self, at: Micros, group: MessageId) {
        let Some(place) = self.find((at, group)) else { return };
        self.groups[place].undecided -= 1;
        if self.groups[place].undecided == 0 {
            self.groups.remove(place);
            give_back(&mut self.groups, KEPT_MAX);
        }
    }

    /// When the alarm is to be set, if it would ring too late now.
    pub fn poll_alarm(&mut self) -> Option<Micros> {
        let earliest = self.groups.front().map(|group| group.at).filter(|at| *at < self.alarm)?;
        self.alarm = earliest;
        Some(earliest)
    }

    /// The alarm rang: messages whose deadline is over. Those that were decided are among them. Ask until `None`, and for
    /// the next alarm then.
    pub fn pop_due(&mut self, now: Micros) -> Option<RangeInclusive<MessageId>> {
        self.alarm = Micros::NEVER;
        let due = self.groups.pop_front_if(|group| group.at <= now)?;
        give_back(&mut self.groups, KEPT_MAX);
        Some(due.first..=due.last)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const LATER: Micros = Micros(2_000);
    const SOON: Micros = Micros(1_000);

    #[test]
    fn what_came_in_a_row_with_one_deadline_is_one_group() {
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.poll_alarm(), None);
        let groups: Vec<MessageId> = [(1, LATER), (2, LATER), (4, SOON), (5, LATER), (6, LATER)]
            .map(|(id, at)| deadlines.add(at, MessageId(id)))
            .to_vec();
        assert_eq!(groups, [1, 1, 4, 5, 5].map(MessageId));
        assert_eq!(deadlines.poll_alarm(), Some(SOON));
        assert_eq!(deadlines.poll_alarm(), None, "it is set");
        assert_eq!(deadlines.pop_due(Micros(999)), None);
        assert_eq!(deadlines.poll_alarm(), Some(SOON), "it rang, and is set again");
        assert_eq!(deadlines.pop_due(SOON), Some(MessageId(4)..=MessageId(4)));
        assert_eq!((deadlines.pop_due(SOON), deadlines.poll_alarm()), (None, Some(LATER)));
        deadlines.remove(LATER, MessageId(1));
        assert_eq!(deadlines.pop_due(LATER), Some(MessageId(1)..=MessageId(2)), "one of it is left");
        assert_eq!(deadlines.pop_due(LATER), Some(MessageId(5)..=MessageId(6)));
        assert_eq!((deadlines.pop_due(LATER), deadlines.poll_alarm()), (None, None));
    }

    #[test]
    fn a_backlog_gives_back_its_room_whether_it_is_decided_or_expires() {
        let backlog = || {
            let mut deadlines = Deadlines::default();
            let groups: Vec<MessageId> =
                (0..1_000).map(|id| deadlines.add(Micros(id), MessageId(id))).collect();
            (deadlines, groups)
        };
        let (mut decided, groups) = backlog();
        for (id, group) in groups.into_iter().enumerate() {
            decided.remove(Micros(u64::try_from(id).unwrap()), group);
        }
        let (mut expired, _) = backlog();
        while expired.pop_due(Micros(1_000)).is_some() {}
        for left in [decided, expired] {
            assert!(left.groups.is_empty() && left.groups.capacity() <= KEPT_MAX);
        }
    }

    /// Beside an ordered map, with deadlines that come in any order.
    #[test]
    fn it_knows_what_a_map_of_all_messages_knows() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut deadlines, mut map) = (Deadlines::default(), BTreeMap::new());
        let (mut now, mut id) = (0, 0);
        for _ in 0..20_000 {
            match rng.u8(..4) {
                0 | 1 => {
                    id += 1;
                    let at = Micros(now + if rng.bool() { 500 } else { rng.u64(1..1_000) });
                    map.insert(MessageId(id), (at, deadlines.add(at, MessageId(id))));
                }
                2 => {
                    let decided = map.keys().nth(rng.usize(..map.len().max(1))).copied();
                    if let Some((at, group)) = decided.and_then(|id| map.remove(&id)) {
                        deadlines.remove(at, group);
                    }
                }
                _ => {
                    now += rng.u64(..60);
                    while let Some(ids) = deadlines.pop_due(Micros(now)) {
                        let due: Vec<MessageId> = map.range(ids).map(|(id, _)| *id).collect();
                        assert!(due.iter().all(|id| map[id].0 <= Micros(now)), "none too early");
                        map.retain(|id, _| !due.contains(id));
                    }
                    assert!(map.values().all(|(at, _)| *at > Micros(now)), "none too late");
                }
            }
            let held: usize = deadlines.groups.iter().map(|group| group.undecided).sum();
            assert_eq!(held, map.len());
        }
    }

    #[test]
    fn what_is_decided_leaves_nothing_behind_and_begins_no_old_group_again() {
        let mut deadlines = Deadlines::default();
        let group = deadlines.add(LATER, MessageId(1));
        deadlines.remove(LATER, group);
        assert!(deadlines.groups.is_empty());
        deadlines.remove(LATER, group);
        assert_eq!(deadlines.add(LATER, MessageId(7)), MessageId(7));
        assert_eq!(deadlines.pop_due(LATER), Some(MessageId(7)..=MessageId(7)));
    }
}

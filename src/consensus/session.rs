//! Sessions: an operation that a client proposes again is answered as it was the first time, and not applied again.
//!
//! Part of the replicated state. Every decision here is made from entries alone, so that it is the same on every replica.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::command::Request;

/// A session that nothing was heard of for so long of cluster time is ended, µs: one hour.
pub const SESSION_TIME: u64 = 3_600_000_000;
/// So many sessions are kept; one more ends the one that nothing was heard of for longest.
pub const SESSIONS_MAX: usize = 10_000;
/// So many of a session's newest answers are kept for operations that are proposed again.
pub const ANSWERS_MAX: usize = 256;
/// And so many bytes of them.
pub const ANSWER_BYTES_MAX: usize = 256 << 10;

/// And so many bytes of those of all sessions together: one more ends sessions as [`SESSIONS_MAX`] does. Enough for that many of
/// which each has as many answers of 60 B.
pub const ALL_BYTES_MAX: usize = 256 << 20;
/// What an answer counts for beside its bytes.
const ANSWER_BYTES: usize = 32;

/// Why an operation was not applied. Definite: it is not applied by this entry, and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The session was ended, or never was. Open another one; what was proposed in this one and not answered may have been
    /// applied or not.
    #[error("the session expired: open another one")]
    SessionExpired,
    /// The operation was applied before, or another one with a much higher number was, and its answer is not kept any longer.
    #[error("operation {seq} is older than the answers that are kept of this session")]
    AnswerForgotten {
        /// Its number.
        seq: u64,
    },
}

/// What is known of an operation that comes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing: apply it.
    New,
    /// What it was answered.
    Answered(Bytes),
    /// It is not applied.
    Refused(Refusal),
}

/// One client's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// When something was heard of it last, cluster time, µs.
    heard: u64,
    /// Operations below it are not applied any longer.
    floor: u64,
    /// By seq.
    answers: BTreeMap<u64, Bytes>,
    /// Of all answers.
    bytes: usize,
}

impl Session {
    /// What it counts for in [`ALL_BYTES_MAX`].
    fn counts(&self) -> usize {
        self.bytes + self.answers.len() * ANSWER_BYTES
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    by_client: BTreeMap<u64, Session>,
    /// The same by time, oldest first: who is to be ended.
    by_time: BTreeMap<(u64, u64), ()>,
    /// Of all answers, and [`ANSWER_BYTES`] for each.
    bytes: usize,
}

impl Sessions {
    /// A session begins.
    pub(super) fn open(&mut self, client: u64, time: u64) {
        self.expire(time);
        while self.by_client.len() >= SESSIONS_MAX
            && let Some(((_, oldest), ())) = self.by_time.pop_first()
        {
            self.forget(oldest);
        }
        self.by_client.insert(client, Session { heard: time, ..Session::default() });
        self.by_time.insert((time, client), ());
    }

    /// An operation comes.
    pub(super) fn look(&mut self, request: Request, time: u64) -> Known {
        self.expire(time);
        let Some(session) = self.by_client.get_mut(&request.client) else {
            return Known::Refused(Refusal::SessionExpired);
        };
        self.by_time.remove(&(session.heard, request.client));
        session.heard = time;
        self.by_time.insert((time, request.client), ());
        match session.answers.get(&request.seq) {
            Some(answer) => Known::Answered(answer.clone()),
            None if request.seq < session.floor => {
                Known::Refused(Refusal::AnswerForgotten { seq: request.seq })
            }
            None => Known::New,
        }
    }

    /// It was applied.
    pub(super) fn answered(&mut self, request: Request, answer: Bytes) {
        let Some(session) = self.by_client.get_mut(&request.client) else { return };
        let before = session.counts();
        session.bytes += answer.len();
        session.answers.insert(request.seq, answer);
        // At least the newest stays, however long it is.
        while session.answers.len() > 1
            && (session.answers.len() > ANSWERS_MAX || session.bytes > ANSWER_BYTES_MAX)
            && let Some((seq, answer)) = session.answers.pop_first()
        {
            session.bytes -= answer.len();
            session.floor = seq + 1;
        }
        self.bytes = self.bytes - before + session.counts();
        while self.bytes > ALL_BYTES_MAX
            && let Some((&(heard, oldest), ())) = self.by_time.first_key_value()
            && oldest != request.client
        {
            self.by_time.remove(&(heard, oldest));
            self.forget(oldest);
        }
    }

    /// The session of a client is ended.
    fn forget(&mut self, client: u64) {
        if let Some(gone) = self.by_client.remove(&client) {
            self.bytes -= gone.counts();
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_client.len()
    }

    fn expire(&mut self, time: u64) {
        while let Some((&(heard, client), ())) = self.by_time.first_key_value()
            && heard.saturating_add(SESSION_TIME) < time
        {
            self.by_time.pop_first();
            self.forget(client);
        }
    }

    /// As bytes, for a snapshot.
    ///
    /// ```text
    /// sessions 8, then for each: client 8, heard 8, floor 8, answers 8, then for each: seq 8, length 8, bytes
    /// ```
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut put = |value: u64| out.extend_from_slice(&value.to_le_bytes());
        put(self.by_client.len() as u64);
        for (client, session) in &self.by_client {
            let mut put = |value: u64| out.extend_from_slice(&value.to_le_bytes());
            for field in [*client, session.heard, session.floor, session.answers.len() as u64] {
                put(field);
            }
            for (seq, answer) in &session.answers {
                out.extend_from_slice(&seq.to_le_bytes());
                out.extend_from_slice(&(answer.len() as u64).to_le_bytes());
                out.extend_from_slice(answer);
            }
        }
    }

    /// Of bytes; `None` where they are none that [`encode`](Self::encode) made.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut rest = Fields(bytes.clone());
        let mut out = Self::default();
        for _ in 0..rest.number()? {
            let [client, heard, floor, answers] =
                [rest.number()?, rest.number()?, rest.number()?, rest.number()?];
            let mut session = Session { heard, floor, ..Session::default() };
            for _ in 0..answers {
                let seq = rest.number()?;
                let answer = rest.bytes()?;
                session.bytes += answer.len();
                session.answers.insert(seq, answer);
            }
            out.bytes += session.counts();
            out.by_time.insert((heard, client), ());
            out.by_client.insert(client, session);
        }
        rest.0.is_empty().then_some(out)
    }
}

/// What is left to be read.
struct Fields(Bytes);

impl Fields {
    fn number(&mut self) -> Option<u64> {
        let value = self.0.first_chunk().map(|field| u64::from_le_bytes(*field))?;
        self.0 = self.0.slice(8..);
        Some(value)
    }

    /// A copy: a slice would keep the whole snapshot in memory.
    fn bytes(&mut self) -> Option<Bytes> {
        let length = usize::try_from(self.number()?).ok().filter(|length| *length <= self.0.len())?;
        Some(Bytes::copy_from_slice(&self.0.split_to(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(client: u64, seq: u64) -> Request {
        Request { client, seq }
    }

    #[test]
    fn an_operation_is_new_once() {
        let mut sessions = Sessions::default();
        sessions.open(7, 0);
        assert_eq!(sessions.look(of(7, 1), 1), Known::New);
        sessions.answered(of(7, 1), Bytes::from_static(b"one"));
        assert_eq!(sessions.look(of(7, 1), 2), Known::Answered(Bytes::from_static(b"one")));
        // Several may be under way, and come in any order.
        assert_eq!(sessions.look(of(7, 3), 3), Known::New);
        sessions.answered(of(7, 3), Bytes::new());
        assert_eq!(sessions.look(of(7, 2), 4), Known::New);
    }

    #[test]
    fn old_answers_are_forgotten_and_their_operations_refused() {
        let mut sessions = Sessions::default();
        sessions.open(7, 0);
        for seq in 0..=ANSWERS_MAX as u64 {
            assert_eq!(sessions.look(of(7, seq), seq), Known::New);
            sessions.answered(of(7, seq), Bytes::new());
        }
        assert_eq!(sessions.look(of(7, 0), 999), Known::Refused(Refusal::AnswerForgotten { seq: 0 }));
        assert_eq!(sessions.look(of(7, 1), 999), Known::Answered(Bytes::new()));
        // A long answer pushes the others out, and stays.
        let long = Bytes::from(vec![1; ANSWER_BYTES_MAX + 1]);
        sessions.answered(of(7, 1_000), long.clone());
        assert_eq!(sessions.look(of(7, 1_000), 999), Known::Answered(long));
        assert_eq!(sessions.look(of(7, 256), 999), Known::Refused(Refusal::AnswerForgotten { seq: 256 }));
    }

    #[test]
    fn sessions_expire_by_cluster_time_and_by_number() {
        let mut sessions = Sessions::default();
        sessions.open(1, 0);
        sessions.open(2, 5);
        assert_eq!(sessions.look(of(1, 1), SESSION_TIME), Known::New);
        let later = SESSION_TIME + 6;
        assert_eq!(sessions.look(of(2, 1), later), Known::Refused(Refusal::SessionExpired));
        assert_eq!(sessions.look(of(1, 1), later), Known::New);
        for client in 10..10 + SESSIONS_MAX as u64 {
            sessions.open(client, later + client);
        }
        assert_eq!(sessions.len(), SESSIONS_MAX);
        assert_eq!(sessions.look(of(1, 2), later), Known::Refused(Refusal::SessionExpired));
        assert_eq!(sessions.look(of(10, 2), later), Known::New);
    }

    /// Whatever clients do, and also after a snapshot, answers take no more memory than that.
    #[test]
    fn the_answers_of_all_sessions_are_bounded_together() {
        // One in memory.
        let long = Bytes::from(vec![1; ANSWER_BYTES_MAX]);
        let mut sessions = Sessions::default();
        let enough = ALL_BYTES_MAX / (ANSWER_BYTES_MAX + ANSWER_BYTES);
        let in_all = |sessions: &Sessions| {
            let each = |session: &Session| {
                session.answers.values().map(|answer| answer.len() + ANSWER_BYTES).sum::<usize>()
            };
            sessions.by_client.values().map(each).sum::<usize>()
        };
        for client in 0..2 * enough as u64 {
            sessions.open(client, client);
            assert_eq!(sessions.look(of(client, 1), client), Known::New);
            sessions.answered(of(client, 1), long.clone());
            assert_eq!(in_all(&sessions), sessions.bytes);
            assert!(sessions.bytes <= ALL_BYTES_MAX, "{}", sessions.bytes);
        }
        assert_eq!((sessions.len(), sessions.by_time.len()), (enough, enough));
        let now = 2 * enough as u64;
        let is = |sessions: &mut Sessions, client, expected: &Known| {
            sessions.look(of(client, 1), now) == *expected
        };
        let (expired, answered) = (Known::Refused(Refusal::SessionExpired), Known::Answered(long.clone()));
        assert!(is(&mut sessions, 0, &expired));
        // One that was heard of stays, and the next one goes in its place.
        let oldest = enough as u64;
        assert!(is(&mut sessions, oldest, &answered));
        sessions.open(now, now);
        sessions.answered(of(now, 1), long.clone());
        assert!(is(&mut sessions, oldest + 1, &expired));
        assert!(is(&mut sessions, oldest, &answered) && is(&mut sessions, oldest + 2, &answered));
        // Those that expire give it back.
        let later = now + SESSION_TIME + 1;
        sessions.open(1, later);
        assert_eq!((sessions.len(), sessions.bytes), (1, 0));
    }

    #[test]
    fn sessions_come_back_from_bytes() {
        let mut sessions = Sessions::default();
        for client in [3, 9] {
            sessions.open(client, client);
            for seq in 0..300 {
                sessions.look(of(client, seq), 20 + seq);
                sessions.answered(of(client, seq), Bytes::from(seq.to_string()));
            }
        }
        let mut bytes = Vec::new();
        sessions.encode(&mut bytes);
        let bytes = Bytes::from(bytes);
        assert_eq!(Sessions::decode(&bytes), Some(sessions));
        for cut in 0..bytes.len() {
            assert_eq!(Sessions::decode(&bytes.slice(..cut)), None, "{cut}");
        }
    }
}

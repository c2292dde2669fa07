//! The roster of one connection: row ↔ flow, appended to by the sender, never changed. One direction each.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::flow::FlowIx;
use super::wire::{Flow, Roster};

/// Most rows of one connection. A row is added when an incarnation changes; a connection that used them all is replaced.
pub const ROSTER_ROWS_MAX: usize = 65_536;

/// Most rows of a connection whose link is not up: enough for every member of a datacenter on the first frame, too few to
/// fill memory with links that never come to be.
pub const ROSTER_ROWS_BEFORE_UP: usize = 4096;

/// Rows announced in one frame: at most 150 bytes each, far below the limit of a control body.
const ROWS_PER_FRAME: usize = 1024;

/// A row number for a flow, new rows to be announced.
#[derive(Debug, Default)]
pub struct RosterOut {
    rows: Vec<Arc<Flow>>,
    index: BTreeMap<Arc<Flow>, u32>,
    /// Of a row that this node's own sender uses: which of its flows it stands for.
    own: Vec<Option<FlowIx>>,
    announced: usize,
}

/// All rows are used; the connection must be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RosterFull;

impl RosterOut {
    /// The row of a flow.
    ///
    /// # Errors
    /// [`RosterFull`].
    pub fn row(&mut self, flow: &Flow) -> Result<u32, RosterFull> {
        if let Some(row) = self.index.get(flow) {
            return Ok(*row);
        }
        if self.rows.len() >= ROSTER_ROWS_MAX {
            return Err(RosterFull);
        }
        let row = u32::try_from(self.rows.len()).map_err(|_| RosterFull)?;
        let flow = Arc::new(flow.clone());
        self.rows.push(Arc::clone(&flow));
        self.index.insert(flow, row);
        Ok(row)
    }

    /// The row of a flow of this node's own sender.
    ///
    /// # Errors
    /// [`RosterFull`].
    pub fn own_row(&mut self, flow: &Flow, ix: FlowIx) -> Result<u32, RosterFull> {
        let row = self.row(flow)?;
        self.own.resize(self.rows.len(), None);
        if let Some(own) = usize::try_from(row).ok().and_then(|row| self.own.get_mut(row)) {
            *own = Some(ix);
        }
        Ok(row)
    }

    /// The flow of a row that was announced.
    #[must_use]
    pub fn flow(&self, row: u32) -> Option<&Arc<Flow>> {
        self.rows.get(usize::try_from(row).ok()?)
    }

    /// Which flow of this node's own sender a row stands for.
    #[must_use]
    pub fn own(&self, row: u32) -> Option<FlowIx> {
        *self.own.get(usize::try_from(row).ok()?)?
    }

    /// The next rows not yet announced (ask until `None`), to be sent in front of the batch that uses them.
    pub fn poll_announcement(&mut self) -> Option<Roster> {
        let new = self.rows.get(self.announced..).filter(|rows| !rows.is_empty())?;
        let first = u32::try_from(self.announced).ok()?;
        let new = &new[..new.len().min(ROWS_PER_FRAME)];
        self.announced += new.len();
        Some(Roster { first, flows: new.iter().map(|flow| flow.as_ref().clone()).collect() })
    }
}

/// The rows the peer announced.
#[derive(Debug, Default)]
pub struct RosterIn {
    rows: Vec<Arc<Flow>>,
}

impl RosterIn {
    /// Appends.
    ///
    /// # Errors
    /// What is wrong with the announcement; the connection must be closed.
    pub fn extend(&mut self, roster: Roster, link_up: bool) -> Result<(), &'static str> {
        if usize::try_from(roster.first) != Ok(self.rows.len()) {
            return Err("roster rows out of order");
        }
        let rows_max = if link_up { ROSTER_ROWS_MAX } else { ROSTER_ROWS_BEFORE_UP };
        if self.rows.len() + roster.flows.len() > rows_max {
            return Err("too many roster rows");
        }
        self.rows.extend(roster.flows.into_iter().map(Arc::new));
        Ok(())
    }

    /// The flow of a row.
    #[must_use]
    pub fn flow(&self, row: u32) -> Option<&Arc<Flow>> {
        self.rows.get(usize::try_from(row).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Incarnation, NodeId};

    fn flow(destination: &str, incarnation: u64) -> Flow {
        Flow {
            origin: NodeId::new("o").unwrap(),
            origin_incarnation: Incarnation(1),
            destination: NodeId::new(destination).unwrap(),
            destination_incarnation: Incarnation(incarnation),
        }
    }

    #[test]
    fn both_ends_agree_and_a_new_incarnation_is_a_new_row() {
        let (mut out, mut peer) = (RosterOut::default(), RosterIn::default());
        assert_eq!(out.row(&flow("a", 0)), Ok(0));
        assert_eq!(out.row(&flow("b", 0)), Ok(1));
        peer.extend(out.poll_announcement().unwrap(), true).unwrap();
        assert_eq!(out.poll_announcement(), None);
        assert_eq!(out.row(&flow("a", 0)), Ok(0));
        assert_eq!(out.row(&flow("a", 5)), Ok(2));
        peer.extend(out.poll_announcement().unwrap(), true).unwrap();
        for row in 0..3 {
            assert_eq!(out.flow(row), peer.flow(row));
        }
        assert_eq!(peer.flow(3), None);
    }

    #[test]
    fn the_senders_own_rows_are_found_by_number_and_no_others() {
        let mut out = RosterOut::default();
        assert_eq!((out.row(&flow("a", 0)), out.own(0)), (Ok(0), None));
        assert_eq!(out.own_row(&flow("b", 0), FlowIx(7)), Ok(1));
        assert_eq!((out.own(0), out.own(1), out.own(2)), (None, Some(FlowIx(7)), None));
        assert_eq!(out.row(&flow("c", 0)), Ok(2));
        assert_eq!((out.own_row(&flow("a", 0), FlowIx(5)), out.own(0)), (Ok(0), Some(FlowIx(5))));
        assert_eq!(out.own(2), None);
    }

    #[test]
    fn gaps_and_floods_are_refused() {
        let mut rows = RosterIn::default();
        assert!(rows.extend(Roster { first: 1, flows: vec![flow("a", 0)] }, true).is_err());
        let early = vec![flow("a", 0); ROSTER_ROWS_BEFORE_UP + 1];
        assert!(rows.extend(Roster { first: 0, flows: early }, false).is_err());
        let flood = vec![flow("a", 0); ROSTER_ROWS_MAX + 1];
        assert!(rows.extend(Roster { first: 0, flows: flood }, true).is_err());
    }
}

//! Tables of peers and destinations with which something is wrong.

use super::super::table::{Align, Table};
use super::{Datacenter, Down, uptime};
use crate::config::units::show_count;

/// A row per peer that is to be linked and is not.
pub(super) fn down(peers: &[Down]) -> Table {
    let mut table = Table::new(&[
        (Align::Left, "peer"),
        (Align::Left, "datacenter"),
        (Align::Left, "roles"),
        (Align::Left, "link"),
        (Align::Right, "for"),
        (Align::Right, "failed dials"),
        (Align::Left, "last error"),
    ]);
    for of in peers {
        table.row(vec![
            of.peer.clone(),
            of.datacenter.clone(),
            of.roles.join("+"),
            if of.dialled { "down, dialling" } else { "down, the peer dials" }.to_owned(),
            uptime(of.down_ms / 1000),
            if of.dialled { of.failures.to_string() } else { "-".to_owned() },
            of.why.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

/// A row per destination that nothing reaches, of each datacenter those to which messages wait longest: there may be more.
pub(super) fn not_reached(datacenters: &[Datacenter]) -> Table {
    let mut table = Table::new(&[
        (Align::Left, "destination"),
        (Align::Left, "datacenter"),
        (Align::Right, "for"),
        (Align::Right, "pending"),
        (Align::Left, "last tried"),
        (Align::Left, "came to"),
        (Align::Left, "last error of its link"),
    ]);
    for datacenter in datacenters {
        for of in &datacenter.unreached {
            table.row(vec![
                of.node.clone(),
                datacenter.name.clone(),
                uptime(of.unanswered_ms / 1000),
                show_count(of.pending_messages, "message"),
                of.proxy.as_ref().map_or_else(|| of.way.clone(), |proxy| format!("by {proxy}")),
                of.why.clone(),
                of.link_why.clone().unwrap_or_else(|| "-".to_owned()),
            ]);
        }
    }
    table
}

/// A row per destination that takes nothing, of each datacenter those that have for longest: there may be more.
pub(super) fn taking_nothing(datacenters: &[Datacenter]) -> Table {
    let mut table = Table::new(&[
        (Align::Left, "destination"),
        (Align::Left, "datacenter"),
        (Align::Right, "for"),
        (Align::Right, "pending"),
    ]);
    for datacenter in datacenters {
        for of in &datacenter.untaken {
            table.row(vec![
                of.node.clone(),
                datacenter.name.clone(),
                uptime(of.untaken_ms / 1000),
                show_count(of.pending_messages, "message"),
            ]);
        }
    }
    table
}

//! A proxy that is a member as well, takes what is for itself and forgets the rest: that it speaks for itself is no sign that it
//! passes anything on.

use std::time::Duration;

use bytes::Bytes;
use trunkline_mesh::id::Datacenter;
use trunkline_mesh::message::{Batch, Message};
use trunkline_mesh::proto::frame::Received;
use trunkline_mesh::proto::node::ConnId;
use trunkline_mesh::proto::wire::{AckFlow, RefusedReason};
use trunkline_mesh::settings::Settings;
use trunkline_mesh::topology::Roles;

use super::shell::{Peer, Shell, ack_frame, cluster, entry, id, refused};

const BOTH: Roles = Roles { origin: false, member: true, proxy: true };

fn submit(shell: &mut Shell, to: &[&str]) {
    let mut batch = Batch::to(Datacenter::new("eu").unwrap());
    batch.extend(to.iter().map(|name| Message::new(id(name), Bytes::from_static(b"x"))));
    shell.node.submit(batch, shell.now).unwrap();
    shell.drain();
}

/// The rows of one bulk connection, and to whom.
#[derive(Default)]
struct Rows(Vec<String>);

impl Rows {
    /// Runs that came since this was asked last: the row, the destination, the last seq.
    fn came(&mut self, shell: &mut Shell, bulk: ConnId) -> Vec<(u32, String, u64)> {
        let mut runs = Vec::new();
        for received in shell.sent(bulk) {
            match received {
                Received::Roster(roster) => {
                    self.0.extend(roster.flows.iter().map(|flow| flow.destination.to_string()));
                }
                Received::Batch(envelope, _) => runs.extend(envelope.runs.iter().map(|run| {
                    let last = run.first.0 + u64::from(run.count) - 1;
                    (run.flow, self.0[run.flow as usize].clone(), last)
                })),
                _ => {}
            }
        }
        runs
    }
}

/// Messages for it and two others every 80 ms, for two seconds. Gives the sender, and how many runs for the others took the way by
/// the good proxy.
fn send_by_one_that_serves_itself_alone(seed: u64) -> Option<(Shell, usize)> {
    let nodes = [
        ("o", "us", Roles::ORIGIN),
        ("pm", "eu", BOTH),
        ("p2", "eu", Roles::PROXY),
        ("m", "eu", Roles::MEMBER),
        ("m2", "eu", Roles::MEMBER),
    ];
    let mut shell = Shell::among(cluster(&nodes), "o", Settings::default(), seed);
    let [selfish, good] = ["pm", "p2"].map(|proxy| shell.link_out(&Peer::new(proxy)));
    let (mut of_selfish, mut of_good, mut passed) = (Rows::default(), Rows::default(), 0);
    for step in 0..50 {
        if step % 2 == 0 {
            submit(&mut shell, &["pm", "m", "m2"]);
        }
        let came = of_selfish.came(&mut shell, selfish[1]);
        if step == 0 && came.is_empty() {
            // The other one was drawn.
            return None;
        }
        shell.advance(Duration::from_millis(20));
        for (row, _, last) in came.into_iter().filter(|(_, to, _)| to == "pm") {
            shell.feed(selfish[0], &ack_frame(vec![entry(row, 100, last)]));
        }
        for (row, to, last) in of_good.came(&mut shell, good[1]) {
            passed += usize::from(to != "pm");
            shell.feed(good[0], &ack_frame(vec![entry(row, 100, last)]));
        }
        shell.advance(Duration::from_millis(20));
    }
    Some((shell, passed))
}

#[test]
fn a_proxy_that_serves_itself_alone_is_left() {
    let (shell, passed) = (1..64).find_map(send_by_one_that_serves_itself_alone).expect("drawn by a seed");
    let verdicts = shell.stats().verdicts;
    assert!(verdicts["proxy"] > 0 && verdicts["member"] == 0, "{verdicts:?}");
    assert!(passed > 10, "{passed} runs by the good one");
    let dialled: Vec<_> = shell.dials.iter().map(|(_, peer, _)| peer.as_str()).collect();
    assert!(!dialled.contains(&"m") && !dialled.contains(&"m2"), "nobody is asked directly: {dialled:?}");
}

/// Straight and through the proxy lead over one link. How long an answer took says something of the way that was asked by.
#[test]
fn a_direct_answer_of_a_proxy_says_nothing_of_how_long_it_takes_to_pass_things_on() {
    let nodes = [("o", "us", Roles::ORIGIN), ("pm", "eu", BOTH), ("m", "eu", Roles::MEMBER)];
    let mut shell = Shell::among(cluster(&nodes), "o", Settings::default(), 1);
    let [control, bulk] = shell.link_out(&Peer::new("pm"));
    let mut rows = Rows::default();
    submit(&mut shell, &["pm"]);
    let came = rows.came(&mut shell, bulk);
    let [(row, _, 1)] = came[..] else { panic!("not one message: {came:?}") };
    let not_served = vec![refused(1, 1, RefusedReason::NotServed as u8)];
    shell.feed(control, &ack_frame(vec![AckFlow { refused: not_served, ..entry(row, 100, 0) }]));
    // Straight now, and the next one too.
    for (seq, wait) in [(1, 20), (2, 40)] {
        let came = rows.came(&mut shell, bulk);
        assert!(matches!(came[..], [(_, _, last)] if last == seq), "{came:?}");
        shell.advance(Duration::from_millis(wait));
        shell.feed(control, &ack_frame(vec![entry(row, 100, seq)]));
        assert!(shell.outcome().is_some_and(|outcome| outcome.is_delivered()));
        submit(&mut shell, &["pm"]);
    }
    let status = shell.node.status(shell.now);
    let eu = status.datacenters.iter().find(|of| of.name.as_str() == "eu").expect("known");
    let measured: Vec<_> = eu.routes.iter().map(|route| route.ack_us).collect();
    assert_eq!(measured, [None], "nothing was passed on");
}

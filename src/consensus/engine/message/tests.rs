//! Messages come back as they were, and no other bytes do.

use super::*;

fn all() -> Vec<Body> {
    let vote = EngineVote::new_committed(7, ReplicaId(3));
    let id = EntryId { term: 6, index: 41 };
    let entry = |index, payload: &'static [u8]| Entry {
        id: EntryId { term: 7, index },
        payload: Bytes::from_static(payload),
    };
    let entries = vec![entry(42, b"first"), entry(43, b""), entry(44, b"third")];
    let append = Append { vote, previous: Some(id), committed: None, backed: true, entries };
    let part = Part {
        vote,
        last: Some(id),
        membership: Some((id, Bytes::from_static(b"{}"))),
        total: 9,
        offset: 3,
        bytes: Bytes::from_static(b"abcdef"),
    };
    vec![
        Body::Append(append),
        Body::Append(Append { vote, previous: None, committed: Some(id), backed: false, entries: vec![] }),
        Body::Appended(Appended::Done),
        Body::Appended(Appended::Conflict),
        Body::Appended(Appended::HigherVote(vote)),
        Body::Appended(Appended::Broken),
        Body::Vote { vote, last: None, only_asked: true, transfer: false },
        Body::Vote { vote, last: Some(id), only_asked: false, transfer: true },
        Body::Voted { vote, last: Some(id), granted: true },
        Body::Transfer { vote, next: ReplicaId(9), last: Some(id) },
        Body::Transferred { done: true },
        Body::Snapshot(part),
        Body::Got { result: Got::Again, offset: 5, vote },
        Body::Propose(Bytes::from_static(b"command")),
        Body::Proposed {
            result: Proposed::Applied { id, answer: Bytes::from_static(b"ok") },
            committed: Some((vote, id)),
        },
        Body::Proposed { result: Proposed::AnswerForgotten { id, seq: 4 }, committed: None },
        Body::Proposed { result: Proposed::NotLeader, committed: None },
        Body::Barrier { lease: true },
        Body::Passed { index: Some(Some(id)) },
        Body::Passed { index: Some(None) },
        Body::Passed { index: None },
        Body::Who,
        Body::IAm { founded: false, members: Vec::new() },
        Body::IAm { founded: true, members: vec![ReplicaId(7), ReplicaId(9)] },
        Body::Time,
        Body::Now { started_us: 1, passed_us: 2, wall_us: 3 },
        Body::Lend(Lend { number: 8, vote, to: ReplicaId(9), last: id }),
        Body::Lent(Lent::Installed { vote, last: id }),
        Body::Lent(Lent::UnderWay(7)),
        Body::Lent(Lent::No),
        Body::Stops,
        Body::Noted,
    ]
}

fn envelope(body: Body) -> Envelope {
    Envelope { from: ReplicaId(1), to: Some(ReplicaId(2)), call: 5, seq: 6, body }
}

#[test]
fn messages_come_back_however_they_are_cut() {
    for body in all() {
        let sent = envelope(body);
        let bytes = Bytes::from(sent.encode().to_vec());
        for cut in 0..=bytes.len() {
            let mut payload = Payload::from(bytes.slice(..cut));
            payload.push(bytes.slice(cut..));
            assert_eq!(Envelope::decode(&payload).as_ref(), Ok(&sent), "{cut}");
        }
    }
}

#[test]
fn no_bytes_are_taken_for_what_they_are_not() {
    for body in all() {
        let bytes = envelope(body.clone()).encode().to_vec();
        // What ends with bytes of any number can be shorter.
        let open = matches!(body, Body::Snapshot(_) | Body::Propose(_) | Body::Proposed { .. });
        for cut in 0..bytes.len() {
            let short = Envelope::decode(&Payload::from(Bytes::copy_from_slice(&bytes[..cut])));
            assert!(short.is_err() || open, "{body} cut at {cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                // Whatever it is, it is one message with one spelling.
                if let Ok(read) = Envelope::decode(&Payload::from(Bytes::from(flipped.clone())))
                    && !matches!(
                        read.body,
                        Body::Snapshot(_) | Body::Proposed { .. } | Body::Appended(_) | Body::Passed { .. }
                    )
                {
                    assert_eq!(read.encode().to_vec(), flipped, "{body} at {at}");
                }
            }
        }
    }
}

/// Behind the last term there is no election any longer.
#[test]
fn a_term_that_no_cluster_comes_to_is_no_message() {
    let id = |term| EntryId { term, index: 4 };
    for (term, read) in [(TERM_MAX, true), (TERM_MAX + 1, false), (u64::MAX, false)] {
        let vote = EngineVote::new(term, ReplicaId(1));
        let append = |vote, previous, of| {
            let entries = vec![Entry { id: EntryId { term: of, index: 5 }, payload: Bytes::new() }];
            Body::Append(Append {
                vote,
                previous: Some(id(previous)),
                committed: None,
                backed: true,
                entries,
            })
        };
        let now = EngineVote::new(7, ReplicaId(1));
        let transfer = false;
        for body in [
            Body::Vote { vote, last: None, only_asked: true, transfer },
            Body::Vote { vote: now, last: Some(id(term)), only_asked: true, transfer },
            Body::Voted { vote, last: None, granted: false },
            append(vote, 7, 7),
            append(now, 7, term),
            Body::Appended(Appended::HigherVote(vote)),
        ] {
            assert_eq!(Envelope::decode(&envelope(body.clone()).encode()).is_ok(), read, "{body} {term}");
        }
    }
}

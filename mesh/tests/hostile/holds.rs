//! Proxies that say of a message that its member holds it, and keep it or lost it; and members that hold one for long.

use trunkline_mesh::proto::wire::{AckFlow, RefusedReason};

use super::lives::Sender;
use super::shell::{entry, refused};

/// Nothing is decided, and the first message of what follows is held.
fn holds(row: u32) -> AckFlow {
    AckFlow { held: vec![1], ..entry(row, 100, 0) }
}

/// What a destination says that holds nothing.
fn has(row: u32, decided: u64) -> AckFlow {
    AckFlow { room_kib: 64, ..entry(row, 100, decided) }
}

fn false_holds(sender: &Sender) -> u64 {
    sender.shell.stats().verdicts["false_hold"]
}

/// Lets time pass until an empty run goes by a way; its row there. What is held does not go again.
fn asked(sender: &mut Sender, by: usize, held: u64) -> u32 {
    for _ in 0..20 {
        sender.pass(100);
        let sent = sender.sent();
        assert!(sent.iter().all(|sent| sent.3 == 0 || sent.2 != held), "sent again: {sent:?}");
        if let Some((_, row, ..)) = sent.iter().find(|sent| (sent.0, sent.3) == (by, 0)) {
            return *row;
        }
    }
    panic!("it is not asked")
}

/// It says so for as long as it likes, with room for more or without: the other proxy is asked, and then brings the message.
#[test]
fn a_proxy_that_says_held_and_keeps_the_message_is_doubted_and_the_second_time_left() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (liar, row, seq) = sender.send();
    let other = 1 - liar;
    sender.say(liar, AckFlow { room_kib: 0, ..holds(row) });
    // What is behind it waits for room.
    sender.submit();
    for _ in 0..9 {
        sender.pass(100);
        sender.say(liar, AckFlow { room_kib: 0, ..holds(row) });
    }
    assert!(sender.sent().iter().all(|(at, ..)| *at == liar), "a receiver may be that slow");
    let row = asked(&mut sender, other, seq);
    sender.say(other, has(row, 0));
    sender.pass(100);
    let sent = sender.sent();
    assert!(sent.iter().any(|sent| (sent.0, sent.2) == (other, seq)), "by the other one: {sent:?}");
    assert_eq!(false_holds(&sender), 1);
    sender.say(other, entry(row, 100, seq + 1));
    assert_eq!(sender.delivered(), 2);
    // It may have been an answer that was overtaken: the proxy is tried again, and the second time left.
    sender.pass(500);
    let (by, row, seq) = sender.send();
    assert_eq!(by, liar);
    let held = |row| AckFlow { held: vec![1], ..entry(row, 100, seq - 1) };
    sender.say(liar, held(row));
    let row = asked(&mut sender, other, seq);
    sender.say(other, has(row, seq - 1));
    sender.say(liar, held(0));
    sender.pass(100);
    let sent = sender.sent();
    assert!(
        sent.iter().any(|sent| (sent.0, sent.2) == (other, seq)),
        "what it says counts no more: {sent:?}"
    );
    sender.say(other, entry(row, 100, seq));
    assert_eq!((sender.delivered(), false_holds(&sender)), (1, 2));
    sender.pass(10_000);
    sender.sent();
    assert_eq!(sender.send().0, other);
}

/// Its application takes nothing for half a minute. Others are asked now and then, say so too, and nothing is sent twice.
#[test]
fn a_slow_receiver_is_asked_about_now_and_then_and_sent_nothing_twice() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (by, row, seq) = sender.send();
    sender.say(by, holds(row));
    let mut asked = [0, 0];
    for _ in 0..300 {
        sender.pass(100);
        for (at, row, _, count) in sender.sent() {
            assert_eq!(count, 0, "sent again");
            asked[at] += 1;
            sender.say(at, holds(row));
        }
    }
    // After 1 s, then 2, 4 and every 8; and when nothing was heard for half a second, whoever said it last.
    let all = asked[0] + asked[1];
    assert!(asked[1 - by] >= 3 && all <= 70, "{asked:?}");
    assert_eq!(false_holds(&sender), 0);
    sender.say(by, entry(row, 100, seq));
    assert_eq!(sender.delivered(), 1);
}

/// There is no other proxy: the member itself is asked.
#[test]
fn where_there_is_one_proxy_the_member_itself_is_asked_what_it_holds() {
    let mut sender = Sender::by(&["p"]);
    let (liar, row, seq) = sender.send();
    sender.say(liar, holds(row));
    sender.pass(1600);
    sender.link_member();
    let sent = sender.sent();
    let Some((_, row, ..)) = sent.iter().find(|sent| sent.0 == 1 && sent.3 == 0).copied() else {
        panic!("not asked: {sent:?}")
    };
    sender.say(1, has(row, 0));
    sender.pass(100);
    assert!(matches!(sender.sent()[..], [(1, _, again, 1)] if again == seq), "directly");
    sender.say(1, entry(row, 100, seq));
    assert_eq!((sender.delivered(), false_holds(&sender)), (1, 1));
}

/// An answer that was on its way since before is older than what is known.
#[test]
fn an_answer_that_was_overtaken_is_no_word_against_anybody() {
    let mut sender = Sender::by(&["p", "p2"]);
    for _ in 0..3 {
        let (by, row, seq) = sender.send();
        sender.say(by, entry(row, 100, seq));
    }
    assert_eq!(sender.delivered(), 3);
    let (by, row, seq) = sender.send();
    sender.say(by, AckFlow { held: vec![1], ..entry(row, 100, seq - 1) });
    let other = 1 - by;
    let row = asked(&mut sender, other, seq);
    sender.say(other, has(row, 2));
    sender.pass(100);
    assert!(sender.sent().iter().all(|sent| sent.3 == 0));
    assert_eq!(false_holds(&sender), 0);
}

/// What a proxy refuses itself says nothing of what the member has, whatever it names as decided.
#[test]
fn a_proxy_that_refuses_the_question_has_not_answered_it() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (by, row, seq) = sender.send();
    sender.say(by, holds(row));
    let row = asked(&mut sender, 1 - by, seq);
    let said = vec![refused(seq, 1, RefusedReason::LinkLost as u8)];
    sender.say(1 - by, AckFlow { refused: said, ..entry(row, 100, 0) });
    sender.pass(400);
    let again = sender.sent().iter().any(|sent| sent.3 > 0);
    assert_eq!((again, false_holds(&sender)), (false, 0), "of what it does not know");
    // The member's answer to it comes then.
    sender.say(1 - by, has(row, 0));
    sender.pass(100);
    let sent = sender.sent();
    assert!(sent.iter().any(|sent| (sent.2, sent.3) == (seq, 1)), "that is one: {sent:?}");
    assert_eq!(false_holds(&sender), 1);
}

/// One of three is silent: the question goes to the next one.
#[test]
fn a_question_that_nobody_answers_goes_elsewhere_the_next_time() {
    let mut sender = Sender::by(&["p", "p2", "p3"]);
    let (by, row, seq) = sender.send();
    let mut asked = [0, 0, 0];
    for _ in 0..100 {
        sender.say(by, holds(row));
        sender.pass(100);
        for (at, row, _, count) in sender.sent() {
            assert_eq!(count, 0, "sent again");
            asked[at] += 1;
            if asked.iter().enumerate().any(|(other, asked)| other != by && other != at && *asked > 0) {
                sender.say(at, has(row, 0));
                sender.pass(100);
                assert!(sender.sent().iter().any(|sent| (sent.2, sent.3) == (seq, 1)), "and is believed");
                assert_eq!(false_holds(&sender), 1);
                return;
            }
        }
    }
    panic!("only one was asked: {asked:?}");
}

/// It is asked again before it has answered, by a line that is slow: of what came in between it knows nothing.
#[test]
fn an_answer_to_an_earlier_question_is_no_word_of_what_came_since() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (by, row, seq) = sender.send();
    sender.say(by, holds(row));
    let other = 1 - by;
    let earlier = asked(&mut sender, other, seq);
    let (at, row, second) = sender.send();
    assert_eq!(at, by);
    sender.say(by, AckFlow { held: vec![0b11], ..entry(row, 100, 0) });
    asked(&mut sender, other, seq);
    sender.say(other, holds(earlier));
    sender.pass(100);
    let again = sender.sent().into_iter().filter(|sent| sent.3 > 0).collect::<Vec<_>>();
    assert_eq!((again, false_holds(&sender)), (vec![], 0));
    // What it is asked next, after 2 s, it is to know.
    let mut again = false;
    for _ in 0..30 {
        sender.say(other, holds(earlier));
        sender.pass(100);
        again |= sender.sent().iter().any(|sent| (sent.2, sent.3) == (second, 1));
    }
    assert_eq!((again, false_holds(&sender)), (true, 1));
}

/// Another one carries it, whose link ends: it goes again at once, as it would had nobody said that it is held.
#[test]
fn a_proxy_says_nothing_of_what_it_was_not_given() {
    let mut sender = Sender::by(&["p", "p2"]);
    let (honest, _, first) = sender.deliver();
    let liar = 1 - honest;
    // Only an audit gives it a row.
    sender.pass(9_000);
    let row = asked(&mut sender, liar, first);
    sender.say(liar, has(row, first));
    let (by, _, seq) = sender.send();
    assert_eq!(by, honest);
    sender.say(liar, AckFlow { held: vec![1], ..has(row, first) });
    sender.shell.node.handle_closed(sender.conns[honest][0], sender.shell.now);
    sender.shell.drain();
    assert!(matches!(sender.sent()[..], [(at, _, again, 1)] if (at, again) == (liar, seq)));
    // Now it is.
    sender.say(liar, AckFlow { held: vec![1], ..has(row, first) });
    sender.pass(400);
    assert!(sender.sent().iter().all(|sent| sent.3 == 0));
}

/// Its link ends, and what follows goes another way: whoever says what else is held has not said that this is.
fn held_by_one_that_is_gone(proxies: &[&'static str]) -> (Sender, usize, u64) {
    let mut sender = Sender::by(proxies);
    let (liar, row, kept) = sender.send();
    sender.say(liar, holds(row));
    let [control, _] = sender.conns[liar];
    sender.shell.node.handle_closed(control, sender.shell.now);
    sender.submit();
    if proxies.len() == 1 {
        sender.link_member();
    }
    let [(at, row, ..)] = sender.sent()[..] else { panic!("not the second one alone") };
    sender.say(at, holds_what_follows(row));
    (sender, at, kept)
}

/// Nothing is decided, and the first message of what follows is not there.
fn holds_what_follows(row: u32) -> AckFlow {
    AckFlow { held: vec![0b10], room_kib: 64, ..entry(row, 100, 0) }
}

#[test]
fn who_says_what_else_is_held_has_not_said_what_a_proxy_did() {
    for proxies in [&["p"][..], &["p", "p2"], &["p", "p2", "p3"]] {
        let (mut sender, at, kept) = held_by_one_that_is_gone(proxies);
        let mut again = None;
        for _ in 0..30 {
            sender.pass(100);
            let sent = sender.sent();
            again = sent.iter().find(|sent| (sent.0, sent.2, sent.3) == (at, kept, 1)).copied();
            if again.is_some() {
                break;
            }
            sent.iter().for_each(|(at, row, ..)| sender.say(*at, holds_what_follows(*row)));
        }
        let (at, row, ..) = again.expect("it waits for its deadline");
        assert_eq!(false_holds(&sender), 1);
        sender.say(at, entry(row, 100, kept + 1));
        assert_eq!(sender.delivered(), 2);
        // Nothing is laid to who carries what the member says.
        assert_eq!(sender.send().0, at);
    }
}

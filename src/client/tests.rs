//! Subscriptions against servers that say what a test has them say.

use std::slice::from_ref;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{
    Address, AskError, Event, Pair, Snapshot, SnapshotError, SubscribeError, Subscription, Wanted, newest,
};

/// What it says to one request after the other; the last of it again and again.
struct Fake {
    address: Address,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn saying(answers: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::plaintext(listener.local_addr().unwrap().to_string());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (heard, answers) = (Arc::clone(&requests), answers.to_vec());
        let task = tokio::spawn(async move {
            for turn in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                heard.lock().unwrap().push(head.lines().next().unwrap().to_owned());
                let answer = &answers[turn.min(answers.len() - 1)];
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Self { address, requests, task }
    }

    /// From which indexes it was asked.
    fn asked(&self) -> Vec<u64> {
        let requests = self.requests.lock().unwrap();
        let from = |line: &String| {
            line.strip_prefix("GET /v1/log?from=").unwrap().split('&').next().unwrap().parse().unwrap()
        };
        requests.iter().map(from).collect()
    }
}

const PATIENCE: Duration = Duration::from_secs(3_600);

fn entry(index: u64) -> String {
    format!("{{\"index\":{index},\"kind\":\"nothing\",\"nothing\":{{}},\"term\":1}}\n")
}

fn entries(indexes: impl IntoIterator<Item = u64>) -> String {
    indexes.into_iter().map(entry).collect()
}

/// An answer that ends when the connection does.
fn answer(code: u16, body: &str) -> String {
    format!("HTTP/1.1 {code} X\r\nconnection: close\r\n\r\n{body}")
}

fn compacted(code: u16, first: u64) -> String {
    answer(
        code,
        &format!("{{\"code\":\"compacted\",\"first\":{first},\"message\":\"it begins at {first}\"}}\n"),
    )
}

async fn next(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut indexes = Vec::new();
    for _ in 0..count {
        indexes.push(subscription.next().await.unwrap().index);
    }
    indexes
}

#[tokio::test]
async fn it_goes_on_at_another_node_without_a_gap_and_without_a_duplicate() {
    // The first breaks off within a line; the second tells what was told already, and then leaves one out.
    let cut = answer(200, &(entries(5..8) + &entry(8)[..20]));
    let first = Fake::saying(&[cut, answer(200, &entries(10..20))]).await;
    let second = Fake::saying(&[answer(200, &(entries(6..10) + &entries([11, 12])))]).await;
    let nodes = [first.address.clone(), second.address.clone()];
    let mut subscription = Subscription::open(nodes, 5);
    assert_eq!(next(&mut subscription, 10).await, (5..15).collect::<Vec<_>>());
    assert_eq!(subscription.position(), 15);
    assert_eq!((first.asked(), second.asked()), (vec![5, 10], vec![8]));
}

#[tokio::test]
async fn no_line_that_is_none_and_no_mark_that_is_false_is_taken() {
    let bad = [
        answer(200, "hello\n"),
        answer(200, "{\"progress\":3}\n"),
        answer(500, "{}"),
        answer(503, "{\"code\":\"stopped\",\"message\":\"stopped\"}"),
        "SSH-2.0-x\r\n".to_owned(),
        answer(200, &entry(3)),
    ];
    for bad in bad {
        let (bad, good) = (Fake::saying(&[bad]).await, Fake::saying(&[answer(200, &entries(2..4))]).await);
        let mut subscription = Subscription::open([bad.address.clone(), good.address.clone()], 2);
        assert_eq!(next(&mut subscription, 2).await, [2, 3]);
        assert_eq!((bad.asked(), good.asked()), (vec![2], vec![2]));
    }
}

#[tokio::test]
async fn with_a_prefix_entries_are_left_out_and_marks_say_how_far_it_came() {
    let told = answer(200, &(entries([3, 7]) + "{\"progress\":20}\n"));
    let node = Fake::saying(&[told, answer(200, &entries([15, 21]))]).await;
    let mut subscription = Subscription::open([node.address.clone()], 1).prefix("a/é");
    assert_eq!(next(&mut subscription, 2).await, [3, 7]);
    assert_eq!(subscription.event().await.unwrap(), Event::Progress(20));
    assert_eq!(subscription.position(), 21);
    assert_eq!(next(&mut subscription, 1).await, [21]);
    assert_eq!(node.asked(), [1, 21]);
    assert!(node.requests.lock().unwrap()[0].contains("&prefix=%61%2f%c3%a9 "), "{:?}", node.requests);
}

#[tokio::test]
async fn compaction_is_told_once_no_node_has_the_entry() {
    let (gone, has) =
        (Fake::saying(&[compacted(410, 9)]).await, Fake::saying(&[answer(200, &entry(4))]).await);
    let mut subscription = Subscription::open([gone.address.clone(), has.address.clone()], 4);
    assert_eq!(next(&mut subscription, 1).await, [4]);
    // As the last line of a stream that began well, and as an answer's code.
    let ended = answer(200, &(entry(4) + compacted(410, 9).rsplit_once("\r\n\r\n").unwrap().1));
    let (ended, gone) = (Fake::saying(&[ended]).await, Fake::saying(&[compacted(410, 7)]).await);
    let mut subscription = Subscription::open([ended.address.clone(), gone.address.clone()], 4);
    assert_eq!(next(&mut subscription, 1).await, [4]);
    let error = subscription.next().await.unwrap_err();
    assert_eq!(error, SubscribeError::Compacted { index: 5, first: 7 });
    assert_eq!(subscription.position(), 5);
}

const HEAD: &str = "{\"snapshot\":{\"index\":9,\"term\":2}}\n";

fn pairs(keys: &[&str]) -> String {
    keys.iter()
        .map(|key| format!("{{\"key\":\"{key}\",\"value\":{{\"text\":\"of {key}\"}},\"mod_index\":3}}\n"))
        .collect()
}

async fn taken(mut snapshot: Snapshot) -> Result<Vec<Pair>, SnapshotError> {
    let mut pairs = Vec::new();
    while let Some(pair) = snapshot.next().await? {
        pairs.push(pair);
    }
    assert_eq!(snapshot.next().await, Ok(None));
    Ok(pairs)
}

#[tokio::test]
async fn a_snapshot_is_of_the_first_node_that_has_one_and_the_log_goes_on_behind_it() {
    let behind = Fake::saying(&[answer(503, "{\"code\":\"behind\",\"message\":\"not yet\"}")]).await;
    let base64 = "{\"key\":\"c\",\"value\":{\"base64\":\"/w==\"},\"mod_index\":7}\n";
    let told = HEAD.to_owned() + &pairs(&["a", "b"]) + base64 + "{\"end\":{\"keys\":3}}\n";
    let node = Fake::saying(&[compacted(410, 8), answer(200, &told), answer(200, &entry(10))]).await;
    let mut subscription = Subscription::open([node.address.clone(), behind.address.clone()], 5);
    let gone = SubscribeError::Compacted { index: 5, first: 8 };
    assert_eq!(subscription.next().await.unwrap_err(), gone);
    let snapshot = subscription.snapshot().await.unwrap();
    assert_eq!((snapshot.index(), snapshot.term()), (9, 2));
    subscription.go_on_at(snapshot.index() + 1);
    let pairs = taken(snapshot).await.unwrap();
    let shown: Vec<_> =
        pairs.iter().map(|pair| (pair.key.as_str(), &pair.value[..], pair.mod_index)).collect();
    assert_eq!(shown, [("a", &b"of a"[..], 3), ("b", b"of b", 3), ("c", &[0xff], 7)]);
    assert_eq!(format!("{}\n", pairs[2].line), base64);
    assert!(node.requests.lock().unwrap()[1].contains("GET /v1/snapshot?at_least=4 "), "{:?}", node.requests);
    assert_eq!(next(&mut subscription, 1).await, [10]);

    let node = Fake::saying(&[answer(200, &told)]).await;
    let nodes = [behind.address.clone(), node.address.clone()];
    assert_eq!(taken(Snapshot::get(&nodes, "", 9, PATIENCE).await.unwrap()).await.unwrap(), pairs);
}

#[tokio::test]
async fn a_snapshot_that_is_cut_off_or_is_none_is_an_error_wherever_that_is() {
    let end = "{\"end\":{\"keys\":2}}\n";
    let whole = HEAD.to_owned() + &pairs(&["a", "b"]) + end;
    // A stream that ends when its connection does: every end but the right one is told.
    for cut in HEAD.len()..whole.len() {
        let node = Fake::saying(&[answer(200, &whole[..cut])]).await;
        let snapshot = Snapshot::get(from_ref(&node.address), "", 0, PATIENCE).await.unwrap();
        let error = taken(snapshot).await.unwrap_err();
        let keys = whole[HEAD.len()..cut].matches('\n').count() as u64;
        assert!(matches!(error, SnapshotError::CutOff { keys: came, .. } if came == keys), "{cut}: {error}");
    }
    let slow = pairs(&["a"]) + "{\"code\":\"slow\",\"message\":\"too slow\"}\n";
    for (bad, why) in [
        (pairs(&["a"]) + end, "1 keys of 2"),
        (pairs(&["a", "b", "c"]) + end, "3 keys of 2"),
        (pairs(&["b", "a"]) + end, "does not come next"),
        (pairs(&["a", "a"]) + end, "does not come next"),
        (pairs(&["a"]) + "hello\n", "of no snapshot"),
        (pairs(&["a"]) + HEAD, "of no snapshot"),
        (pairs(&["a"]).replace("text", "base64"), "no base64"),
        (slow, "too slow"),
    ] {
        let node = Fake::saying(&[answer(200, &(HEAD.to_owned() + &bad))]).await;
        let mut snapshot = Snapshot::get(from_ref(&node.address), "", 0, PATIENCE).await.unwrap();
        let error = loop {
            match snapshot.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{bad}"),
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(snapshot.next().await, Err(error), "it stays so");
    }
    let stray = Fake::saying(&[answer(200, &(HEAD.to_owned() + &pairs(&["b"])))]).await;
    let mut snapshot = Snapshot::get(from_ref(&stray.address), "a", 0, PATIENCE).await.unwrap();
    assert!(snapshot.next().await.unwrap_err().to_string().contains("does not come next"));

    let refusal = Fake::saying(&[answer(400, "{\"code\":\"bad_request\",\"message\":\"no\"}")]).await;
    let refused = Snapshot::get(from_ref(&refusal.address), "", 0, PATIENCE).await.unwrap_err();
    assert_eq!(refused, AskError::Refused { message: "no".to_owned() }.into());
    assert_eq!(Snapshot::get(&[], "", 0, PATIENCE).await.unwrap_err(), AskError::NoAddress.into());
    let busy = Fake::saying(&[answer(429, "{\"code\":\"busy\",\"message\":\"full\"}")]).await;
    let nobody = Snapshot::get(from_ref(&busy.address), "", 0, Duration::from_millis(1)).await.unwrap_err();
    let SnapshotError::Ask(AskError::Unavailable { wanted: Wanted::Snapshot, why, .. }) = &nobody else {
        panic!("{nobody}")
    };
    assert!(why.contains("full"), "{nobody}");
}

#[tokio::test]
async fn one_that_was_too_slow_goes_on_at_the_same_node() {
    let slow = answer(200, &(entry(0) + "{\"code\":\"slow\",\"index\":1,\"message\":\"slow\"}\n"));
    let node = Fake::saying(&[slow, answer(200, &entries(1..3))]).await;
    let other = Fake::saying(&[answer(200, &entries(0..9))]).await;
    let mut subscription = Subscription::open([node.address.clone(), other.address.clone()], 0);
    assert_eq!(next(&mut subscription, 3).await, [0, 1, 2]);
    assert_eq!((node.asked(), other.asked()), (vec![0, 1], vec![]));
}

#[tokio::test]
async fn what_no_node_can_do_is_an_error_and_may_be_tried_again() {
    let refusal = "{\"code\":\"bad_request\",\"message\":\"no\",\"definite\":true}";
    let node = Fake::saying(&[answer(400, refusal), answer(200, ""), answer(200, &entry(3))]).await;
    let mut subscription = Subscription::open([node.address.clone()], 3).patience(Duration::from_secs(3_600));
    let refused = AskError::Refused { message: "no".to_owned() }.into();
    assert_eq!(subscription.next().await.unwrap_err(), refused);
    // The second answer has nothing; it is tried again.
    assert_eq!(next(&mut subscription, 1).await, [3]);
    let mut nobody = Subscription::open([], 0);
    assert_eq!(nobody.next().await.unwrap_err(), AskError::NoAddress.into());

    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let closed = Address::plaintext(closed);
    let mut subscription = Subscription::open([closed.clone()], 3).patience(Duration::from_millis(1));
    for _ in 0..2 {
        let error = subscription.next().await.unwrap_err();
        let SubscribeError::Ask(AskError::Unavailable { wanted: Wanted::Entry(3), why, .. }) = error else {
            panic!("{error}")
        };
        assert!(why.contains("cannot be reached"), "{why}");
    }
    let status = Fake::saying(&[answer(200, "{\"applied_index\":7,\"more\":1}")]).await;
    let patience = Duration::from_millis(1);
    assert_eq!(newest(&[closed.clone(), status.address.clone()], patience).await, Ok(Some(7)));
    let error = newest(&[closed], patience).await.unwrap_err();
    assert!(
        error.to_string().starts_with("no node says how far the log is within 1ms; the last one: "),
        "{error}"
    );
    // As patient as it was asked to be: the first answer is none.
    let later = Fake::saying(&[answer(503, "busy"), answer(200, "{\"applied_index\":8}")]).await;
    assert_eq!(newest(std::slice::from_ref(&later.address), Duration::from_secs(60)).await, Ok(Some(8)));
    assert_eq!(newest(&[], patience).await, Err(AskError::NoAddress));
}

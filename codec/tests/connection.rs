//! The example of a connection, with a peer that does not do what it should.

mod common;
#[allow(dead_code, reason = "it is a program")]
#[path = "../examples/connection.rs"]
mod connection;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use trunkline_codec::{Epochs, Options, Payload, Session};

use connection::{
    ACK, Connection, FOLLOWERS, FRAME_BYTES_MAX, LIMITS, PROPOSALS, header, proposal, propose, run,
};

/// For what does not come; what comes is there, or another thread sends it.
const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(20);
const STREAMS: [u32; 2] = [1, 2];

/// Writes whatever it likes.
struct Peer {
    tcp: TcpStream,
    session: Session,
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (tcp, listener.accept().unwrap().0)
}

fn pair(hears: &'static [u32], patience: Duration) -> (Connection, Peer) {
    let (mut tcp, end) = tcp_pair();
    tcp.set_read_timeout(Some(LONG)).unwrap();
    let outgoing = 7_u64;
    tcp.write_all(&outgoing.to_le_bytes()).unwrap();
    let mut end = Connection::begin(end, hears, LONG).unwrap();
    end.patience = patience;
    let mut incoming = [0; 8];
    tcp.read_exact(&mut incoming).unwrap();
    let epochs = Epochs { outgoing, incoming: u64::from_le_bytes(incoming) };
    let session = Session::new(Options { limits: LIMITS, ..Options::default() }, epochs);
    (end, Peer { tcp, session })
}

/// A frame with what goes around it.
fn around(streams: &[u32], frame: &[u8]) -> Vec<u8> {
    let len = u32::try_from(frame.len()).unwrap().to_le_bytes();
    let numbers: Vec<u8> = streams.iter().flat_map(|stream| stream.to_le_bytes()).collect();
    [&len[..], &[u8::try_from(streams.len()).unwrap()], &numbers, frame].concat()
}

impl Peer {
    /// The next frame, not written.
    fn frame(&mut self, streams: &[u32], len: usize) -> Vec<u8> {
        let mut rng = Rng::with_seed(1);
        let messages: Vec<Payload> = streams.iter().map(|_| common::random(&mut rng, len).into()).collect();
        around(streams, &self.session.encode(streams, &messages).unwrap().to_bytes())
    }
}

/// Nothing more is read or written, and the peer knows.
fn assert_over(mut end: Connection, mut peer: Peer) {
    for _ in 0..2 {
        let sent = end.send(&STREAMS, &[Payload::default(), Payload::default()]);
        assert_eq!(sent.map_err(|error| error.kind()), Err(ErrorKind::NotConnected));
        assert_eq!(kind_of_receive(&mut end), ErrorKind::NotConnected);
    }
    // All that was written comes, and then the end; or the news that this end closed with something unread.
    match peer.tcp.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(error) => assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
    }
}

fn kind_of_receive(end: &mut Connection) -> ErrorKind {
    end.receive().expect_err("nothing that could be received").kind()
}

#[test]
fn the_example_runs() {
    run(propose).unwrap();
}

/// Both ends are asked why, so what the proxy finds is not hidden behind what the leader makes of its leaving.
#[test]
fn what_the_proxy_finds_is_said() {
    let why = run(|tcp| {
        Connection::begin(tcp, &FOLLOWERS, LONG)?;
        Err("a wrong message".into())
    });
    let why = why.unwrap_err().to_string();
    assert!(why.starts_with("the proxy: a wrong message"), "{why}");
    let why = run(|tcp| {
        let mut leader = Connection::begin(tcp, &FOLLOWERS, LONG)?;
        // A proposal that is not one.
        leader.send(&[PROPOSALS[0]; 2], &[proposal(1).into(), proposal(1).into()])?;
        leader.receive()?.ok_or("nothing came back")?;
        Ok(())
    });
    let why = why.unwrap_err().to_string();
    assert!(why.contains("the leader: proposals for the streams [0, 0]"), "{why}");
}

#[test]
fn messages_for_other_followers_are_not_the_answer() {
    let answers: [&[u32]; 5] = [&FOLLOWERS, &[11, 11, 11], &[11, 12], &[11, 13, 12], &[11, 12, 13, 13]];
    for answer in answers {
        let (tcp, end) = tcp_pair();
        let outcome = thread::scope(|scope| {
            let outcome = scope.spawn(|| propose(tcp));
            let mut proxy = Connection::begin(end, &PROPOSALS, LONG).unwrap();
            for round in 1.. {
                let Ok(Some((_, got))) = proxy.receive() else { break };
                let message = |to: &u32| [header(*to, round)].into_iter().chain(got.message(0)).collect();
                proxy.send(answer, &answer.iter().map(message).collect::<Vec<Payload>>()).unwrap();
            }
            outcome.join().unwrap()
        });
        assert_eq!(outcome.is_ok(), answer == FOLLOWERS, "{answer:?}: {outcome:?}");
    }
}

#[test]
fn a_frame_of_which_a_part_came_is_the_end() {
    for part in [1, 4, 5, 12, 13, 20] {
        let (mut end, mut peer) = pair(&STREAMS, SHORT);
        let frame = peer.frame(&STREAMS, 100);
        peer.tcp.write_all(&frame[..part]).unwrap();
        let why = end.receive().err().unwrap();
        assert_eq!(why.kind(), ErrorKind::TimedOut, "{part}: {why}");
        assert!(why.to_string().contains("it takes too long"), "{why}");
        // What is left of the frame, and another one, are not looked at.
        drop(peer.tcp.write_all(&frame[part..]));
        let frame = peer.frame(&STREAMS, 100);
        drop(peer.tcp.write_all(&frame));
        assert_over(end, peer);
    }
}

#[test]
fn a_frame_that_is_refused_is_the_end() {
    let (mut end, mut peer) = pair(&STREAMS, LONG);
    let mut frame = peer.frame(&STREAMS, 100);
    *frame.last_mut().unwrap() ^= 1;
    peer.tcp.write_all(&frame).unwrap();
    frame = peer.frame(&STREAMS, 100);
    peer.tcp.write_all(&frame).unwrap();
    assert_eq!(kind_of_receive(&mut end), ErrorKind::InvalidData);
    assert_over(end, peer);
}

#[test]
fn a_frame_of_which_a_part_was_written_is_the_end() {
    let (mut end, peer) = pair(&STREAMS, SHORT);
    let mut rng = Rng::with_seed(2);
    let message: Payload = common::random(&mut rng, LIMITS.message_bytes).into();
    let messages = [message.clone(), message];
    // The kernel takes some of it.
    let why = (0..1000).find_map(|_| end.send(&STREAMS, &messages).err()).expect("a kernel without an end");
    assert_eq!(why.kind(), ErrorKind::TimedOut, "{why}");
    assert_over(end, peer);
}

/// An end that sends, and never looks at what the other one acknowledges.
#[test]
fn what_was_sent_before_an_end_closed_arrives() {
    const FRAMES: usize = 10;
    let (one, other) = tcp_pair();
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut end = Connection::begin(one, &STREAMS, LONG).unwrap();
            let mut rng = Rng::with_seed(3);
            for _ in 0..FRAMES {
                end.send(&[1], &[common::random(&mut rng, 200_000).into()]).unwrap();
            }
            end.close().unwrap();
        });
        let mut end = Connection::begin(other, &STREAMS, LONG).unwrap();
        let came = std::iter::from_fn(|| end.receive().unwrap()).count();
        assert_eq!(came, FRAMES);
        drop(end);
        sender.join().unwrap();
    });
}

#[test]
fn the_stream_of_acknowledgements_has_nothing_else() {
    let (mut end, mut peer) = pair(&STREAMS, LONG);
    let refused = end.send(&[1, ACK], &[Payload::default(), Payload::default()]).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    let frame = peer.frame(&[ACK], 1);
    peer.tcp.write_all(&frame).unwrap();
    assert_eq!(kind_of_receive(&mut end), ErrorKind::InvalidData);
    assert_over(end, peer);
}

#[test]
fn what_cannot_be_encoded_leaves_a_connection_as_it_was() {
    let (mut end, mut peer) = pair(&STREAMS, LONG);
    let too_long = Payload::from(vec![0; LIMITS.message_bytes + 1]);
    for (streams, messages) in
        [(&[][..], vec![]), (&[1, 2], vec![Payload::default()]), (&[1], vec![too_long])]
    {
        assert_eq!(
            end.send(streams, &messages).err().map(|error| error.kind()),
            Some(ErrorKind::InvalidInput)
        );
    }
    let len = end.send(&[1], &[Payload::from(vec![5; 40])]).unwrap();
    let mut came = vec![0; 5 + 4 + len];
    peer.tcp.read_exact(&mut came).unwrap();
    assert_eq!(peer.session.parse(came.split_off(9).into(), &[1]).unwrap().to_vec(0), [5; 40]);
    let frame = peer.frame(&STREAMS, 10);
    peer.tcp.write_all(&frame).unwrap();
    assert_eq!(end.receive().unwrap().unwrap().0, STREAMS);
}

#[test]
fn a_peer_that_closes_is_told_from_one_that_is_cut_off_and_from_one_that_is_silent() {
    let (mut end, mut peer) = pair(&STREAMS, LONG);
    let frame = peer.frame(&STREAMS, 100);
    peer.tcp.write_all(&frame).unwrap();
    drop(peer.tcp);
    assert!(end.receive().unwrap().is_some() && end.receive().unwrap().is_none());
    assert_eq!(kind_of_receive(&mut end), ErrorKind::NotConnected);
    for part in 1..frame.len() {
        let (mut end, mut peer) = pair(&STREAMS, LONG);
        peer.tcp.write_all(&frame[..part]).unwrap();
        drop(peer.tcp);
        assert_eq!(kind_of_receive(&mut end), ErrorKind::UnexpectedEof, "{part}");
    }
    // Silent before a frame: that is no error, for longer than a frame may take.
    let (mut end, mut peer) = pair(&STREAMS, SHORT);
    thread::scope(|scope| {
        let (done, came) = mpsc::channel();
        scope.spawn(move || done.send(end.receive().map(|came| came.is_some())).unwrap());
        assert!(matches!(came.recv_timeout(4 * SHORT), Err(RecvTimeoutError::Timeout)));
        // All of it is there at once.
        let frame = peer.frame(&STREAMS, 100);
        peer.tcp.write_all(&frame).unwrap();
        assert!(came.recv_timeout(LONG).unwrap().unwrap());
    });
}

/// A byte now and then does not hold an end, nor the buffer that it has for the frame.
#[test]
fn the_time_of_a_frame_is_that_of_all_its_bytes() {
    let (mut end, mut peer) = pair(&STREAMS, SHORT);
    let frame = peer.frame(&STREAMS, 500);
    let (done, stop) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            for byte in frame {
                // The other end may have left.
                let _ = peer.tcp.write_all(&[byte]);
                if stop.recv_timeout(SHORT / 10) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        });
        let received = end.receive();
        drop(done);
        assert_eq!(received.err().map(|error| error.kind()), Some(ErrorKind::TimedOut));
    });
}

/// Before it is parsed, for what a stream remembers is kept.
#[test]
fn a_stream_that_is_not_expected_is_refused() {
    for streams in [&[3][..], &[1, 3], &[ACK, 1], &[1, 2, ACK]] {
        let (mut end, mut peer) = pair(&STREAMS, LONG);
        // The frame itself need not come.
        peer.tcp.write_all(&around(streams, &[0; 50])[..5 + 4 * streams.len()]).unwrap();
        let why = end.receive().err().unwrap().to_string();
        assert!(why.contains(&format!("for the streams {streams:?}")), "{why}");
        assert_over(end, peer);
    }
}

#[test]
fn the_longest_frame_within_the_limits_is_taken_and_no_longer_one() {
    const ALL: [u32; LIMITS.destinations] = [1; LIMITS.destinations];
    let (mut end, mut peer) = pair(&STREAMS, LONG);
    // Nothing is common, and the lengths are as long as they may be.
    let frame = peer.frame(&ALL, LIMITS.output_bytes / LIMITS.destinations);
    assert!(frame.len() - (5 + 4 * ALL.len()) > LIMITS.output_bytes + 3 * LIMITS.destinations);
    thread::scope(|scope| {
        scope.spawn(|| peer.tcp.write_all(&frame).unwrap());
        let (streams, got) = end.receive().unwrap().unwrap();
        assert_eq!((streams.len(), got.message_count()), (LIMITS.destinations, LIMITS.destinations));
    });
    let len = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
    peer.tcp.write_all(&[&len[..], &[1]].concat()).unwrap();
    let why = end.receive().err().unwrap().to_string();
    assert!(why.contains(&format!("a frame of {} bytes", FRAME_BYTES_MAX + 1)), "{why}");
    assert_over(end, peer);
}

/// An end that has nothing to send acknowledges what it gets, so its peer goes on remembering.
#[test]
fn what_arrives_is_acknowledged() {
    let (mut end, mut peer) = pair(&STREAMS, LONG);
    const ROUNDS: usize = 30;
    // The peer is moved, to be closed whatever happens.
    thread::scope(move |scope| {
        let received = scope.spawn(move || {
            let mut remembered = 0;
            while let Some((streams, frame)) = end.receive().unwrap() {
                assert_eq!(streams, STREAMS, "an acknowledgement is no message");
                remembered += usize::from(!frame.is_unremembered());
            }
            remembered
        });
        for _ in 0..ROUNDS {
            let frame = peer.frame(&STREAMS, 150_000);
            peer.tcp.write_all(&frame).unwrap();
            let mut around = [0; 9];
            peer.tcp.read_exact(&mut around).unwrap();
            let [len @ .., _, _, _, _, _] = around;
            assert_eq!(around[4..], [1, 255, 255, 255, 255]);
            let mut ack = vec![0; u32::from_le_bytes(len) as usize];
            assert!(ack.len() < 20, "{} bytes", ack.len());
            peer.tcp.read_exact(&mut ack).unwrap();
            let ack = peer.session.parse(Bytes::from(ack), &[ACK]).unwrap();
            assert!(ack.message_count() == 1 && ack.to_vec(0).is_empty());
        }
        drop(peer);
        assert_eq!(received.join().unwrap(), ROUNDS);
    });
}

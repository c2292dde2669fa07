//! Sessions on a TCP connection: all that goes around their frames. A proxy sends proposals to its leader, and gets them
//! back in entries for three followers. `cargo run -p trunkline-codec --example connection`.

use std::error::Error;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use trunkline_codec::{EncodedFrame, Epochs, Frame, Limits, Options, Payload, Session};

/// What an end takes in a frame. Besides, a session keeps up to 12 MiB of windows, and 9 KiB for each of at most 1,024
/// streams in each direction, unless they are held against those expected, as here.
pub(crate) const LIMITS: Limits = Limits {
    destinations: 64,
    message_bytes: 256 << 10,
    output_bytes: 1 << 20,
    pieces: 1 << 14,
    records: 1 << 12,
    data_bytes: 1 << 20,
    set_bytes: 1 << 14,
};
/// No encoder of this crate makes a longer frame of what is within them: all messages, for each of them three bytes of its
/// length and one more, and 48 bytes. Another one's, which need not be as short, would be refused.
pub(crate) const FRAME_BYTES_MAX: usize = LIMITS.output_bytes + LIMITS.destinations * (3 + 1) + 48;
/// Lengths have three bytes; the count of streams travels in one.
const _: () = assert!(LIMITS.message_bytes < 1 << 21 && LIMITS.destinations <= u8::MAX as usize);
/// The stream of acknowledgements, and of nothing else: an empty message of it says what has arrived.
pub(crate) const ACK: u32 = u32::MAX;

/// One end. Its first error ends it and closes its socket: there is nothing to go on from where a part of a frame was
/// read or written, or one was refused. Begin another one then.
///
/// The two ends take turns: where both only send, each waits until the other one reads, and both run out of patience. Whoever
/// sends has to receive now and then, or learns of nothing that arrived, and after 4 MiB nothing more is remembered.
pub(crate) struct Connection {
    /// Taken while a frame is read or written, and put back once that went well.
    tcp: Option<TcpStream>,
    session: Session,
    /// The streams that this end takes.
    hears: &'static [u32],
    /// What a frame may take from its first byte to its last, in however many parts it comes or goes.
    pub(crate) patience: Duration,
}

impl Connection {
    /// The handshake: each end says a number that no other connection has, for what it sends.
    pub(crate) fn begin(mut tcp: TcpStream, hears: &'static [u32], patience: Duration) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        // Of an asynchronous program it may not be so.
        tcp.set_nonblocking(false)?;
        let outgoing = RandomState::new().hash_one(0);
        tcp.write_all(&outgoing.to_le_bytes())?;
        let mut incoming = [0; 8];
        read_all(&tcp, &mut incoming, Instant::now() + patience)?;
        let epochs = Epochs { outgoing, incoming: u64::from_le_bytes(incoming) };
        if epochs.incoming == epochs.outgoing {
            return Err(invalid("the other end says this end's own number"));
        }
        let session = Session::new(Options { limits: LIMITS, ..Options::default() }, epochs);
        Ok(Self { tcp: Some(tcp), session, hears, patience })
    }

    /// Sends a message to each of `streams`, and says how long the frame is. What cannot be encoded is the one error that
    /// leaves the connection as it was: [`ErrorKind::InvalidInput`].
    pub(crate) fn send(&mut self, streams: &[u32], messages: &[Payload]) -> io::Result<usize> {
        if streams.contains(&ACK) {
            return Err(refused("the stream of acknowledgements is for nothing else"));
        }
        self.send_any(streams, messages)
    }

    fn send_any(&mut self, streams: &[u32], messages: &[Payload]) -> io::Result<usize> {
        if self.tcp.is_none() {
            return Err(over());
        }
        let frame = self.session.encode(streams, messages).map_err(refused)?;
        let tcp = self.tcp.take().ok_or_else(over)?;
        write(&tcp, streams, &frame, Instant::now() + self.patience)?;
        self.tcp = Some(tcp);
        Ok(frame.len())
    }

    /// The next messages, and the stream of each; `None` once the peer has closed the connection between two frames. An end
    /// that comes here has nothing to send: it acknowledges what arrived, if that is due.
    pub(crate) fn receive(&mut self) -> io::Result<Option<(Vec<u32>, Frame)>> {
        loop {
            if self.session.ack_due() {
                self.send_any(&[ACK], &[Payload::default()])?;
            }
            let tcp = self.tcp.take().ok_or_else(over)?;
            let Some((streams, bytes)) = read(&tcp, self.hears, self.patience)? else { return Ok(None) };
            let frame = self.session.parse(bytes, &streams).map_err(invalid)?;
            if streams != [ACK] {
                self.tcp = Some(tcp);
                return Ok(Some((streams, frame)));
            }
            if frame.message_len(0) > 0 {
                return Err(invalid("an acknowledgement that is not empty"));
            }
            self.tcp = Some(tcp);
        }
    }

    /// Tells the peer that nothing more comes, and waits until it has read all of it and closed as well. Acknowledgements are
    /// under way: were they left unread, the kernel would throw away what was sent last.
    pub(crate) fn close(mut self) -> io::Result<()> {
        let mut tcp = self.tcp.take().ok_or_else(over)?;
        tcp.shutdown(Shutdown::Write)?;
        let (deadline, mut unread) = (Instant::now() + self.patience, [0; 4096]);
        loop {
            tcp.set_read_timeout(Some(left(deadline)?))?;
            match tcp.read(&mut unread) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => again(error)?,
            }
        }
    }
}

/// Writes a frame behind what it does not carry: its length, and the numbers of its streams in the order of its messages.
fn write(mut tcp: &TcpStream, streams: &[u32], frame: &EncodedFrame, deadline: Instant) -> io::Result<()> {
    let mut around = u32::try_from(frame.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
    around.push(u8::try_from(streams.len()).map_err(io::Error::other)?);
    around.extend(streams.iter().flat_map(|stream| stream.to_le_bytes()));
    let slices = frame.slices().iter().map(|slice| &slice[..]);
    let mut slices: Vec<_> = [&around[..]].into_iter().chain(slices).map(IoSlice::new).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        tcp.set_write_timeout(Some(left(deadline)?))?;
        match tcp.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) => again(error)?,
        }
    }
    Ok(())
}

/// Reads what [`write`] wrote. What the peer says is held against what this end takes before anything is kept for it.
fn read(mut tcp: &TcpStream, hears: &[u32], patience: Duration) -> io::Result<Option<(Vec<u32>, Bytes)>> {
    let mut around = [0; 5];
    // As long as it takes: a connection may be idle. Where that tells that the peer is gone, let both ends acknowledge every
    // few seconds, and give this wait a time of its own.
    tcp.set_read_timeout(None)?;
    match tcp.read_exact(&mut around[..1]) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        first => first?,
    }
    let deadline = Instant::now() + patience;
    read_all(tcp, &mut around[1..], deadline)?;
    let [len @ .., count] = around;
    let (len, count) = (u32::from_le_bytes(len) as usize, usize::from(count));
    if len > FRAME_BYTES_MAX || count > LIMITS.destinations {
        return Err(invalid(format!("a frame of {len} bytes for {count} streams: it is too long")));
    }
    let mut numbers = vec![0; 4 * count];
    read_all(tcp, &mut numbers, deadline)?;
    let (numbers, _) = numbers.as_chunks();
    let streams: Vec<u32> = numbers.iter().map(|number| u32::from_le_bytes(*number)).collect();
    if streams != [ACK] && !streams.iter().all(|stream| hears.contains(stream)) {
        return Err(invalid(format!("a frame for the streams {streams:?}; this end takes {hears:?}")));
    }
    let mut frame = vec![0; len];
    read_all(tcp, &mut frame, deadline)?;
    Ok(Some((streams, frame.into())))
}

fn read_all(mut tcp: &TcpStream, mut to: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !to.is_empty() {
        tcp.set_read_timeout(Some(left(deadline)?))?;
        match tcp.read(to) {
            Ok(0) => return Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer closed in the middle")),
            Ok(read) => to = &mut to[read..],
            Err(error) => again(error)?,
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    left.ok_or_else(|| io::Error::new(ErrorKind::TimedOut, "it takes too long: the peer is slow, or gone"))
}

/// Until nothing is [`left`].
fn again(error: io::Error) -> io::Result<()> {
    // Elsewhere a socket's own time that ran out; here that of the connection itself, which is over.
    let timer = cfg!(windows) && error.kind() == ErrorKind::TimedOut;
    let wait = timer || matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock);
    if wait { Ok(()) } else { Err(error) }
}

fn refused(why: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, why)
}

fn over() -> io::Error {
    io::Error::new(ErrorKind::NotConnected, "this connection has ended: begin another one")
}

fn invalid(why: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// Streams: one for the proposals, one for each follower.
pub(crate) const PROPOSALS: [u32; 1] = [0];
pub(crate) const FOLLOWERS: [u32; 3] = [11, 12, 13];
const PATIENCE: Duration = Duration::from_secs(10);

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

pub(crate) fn proposal(round: u32) -> Bytes {
    (0..1000).map(|at| (round << 10 | at).wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()
}

/// What precedes the entry in the message to a follower: to whom, which index, and much that stays.
pub(crate) fn header(to: u32, index: u32) -> Bytes {
    [&to.to_le_bytes()[..], &index.to_le_bytes(), &[7; 40]].concat().into()
}

fn main() -> ExitCode {
    if let Err(why) = run(propose) {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    println!("the proxy has every message as it was sent");
    ExitCode::SUCCESS
}

/// Both ends take turns, so each comes to read what the other one acknowledges. Where each is to read and write at any time,
/// share an `EchoWindow` between an `EchoEncoder` and an `EchoDecoder`.
pub(crate) fn run(propose: fn(TcpStream) -> Outcome) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (up, (down, _)) = (TcpStream::connect(listener.local_addr()?)?, listener.accept()?);
    let proxy = thread::spawn(move || propose(up));
    let led = lead(down).map_err(|why| format!("the leader: {why}"));
    // Who fails first ends the connection for the other one, too, so both are asked.
    let proposed =
        proxy.join().unwrap_or_else(|_| Err("a panic".into())).map_err(|why| format!("the proxy: {why}"));
    let failed: Vec<String> = [proposed, led].into_iter().filter_map(Result::err).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ").into()) }
}

/// The leader makes entries of the slices that came: what the proxy sent is named, and not sent back.
fn lead(tcp: TcpStream) -> Outcome {
    let mut proxy = Connection::begin(tcp, &PROPOSALS, PATIENCE)?;
    println!("round  messages B  frame B  around it B");
    for round in 1.. {
        let Some((streams, got)) = proxy.receive()? else { break };
        if streams != PROPOSALS {
            return Err(format!("proposals for the streams {streams:?}").into());
        }
        let message = |to: &u32| [header(*to, round)].into_iter().chain(got.message(0)).collect();
        let messages: Vec<Payload> = FOLLOWERS.iter().map(message).collect();
        let bytes: usize = messages.iter().map(Payload::len).sum();
        let len = proxy.send(&FOLLOWERS, &messages)?;
        println!("{round:>5}  {bytes:>10}  {len:>7}  {:>11}", 5 + 4 * FOLLOWERS.len());
        if len > 100 {
            return Err(format!("a frame of {len} B: the proposal was sent back").into());
        }
    }
    Ok(())
}

/// The proxy: a proposal goes up, and comes back for its followers.
pub(crate) fn propose(tcp: TcpStream) -> Outcome {
    let mut leader = Connection::begin(tcp, &FOLLOWERS, PATIENCE)?;
    for round in 1..=4 {
        leader.send(&PROPOSALS, &[proposal(round).into()])?;
        let (streams, got) = leader.receive()?.ok_or("the leader closed the connection")?;
        // Here each message goes on to the follower whose stream it is.
        let messages: Vec<_> =
            streams.iter().enumerate().map(|(index, to)| (*to, got.to_vec(index))).collect();
        if messages != FOLLOWERS.map(|to| (to, [header(to, round), proposal(round)].concat())) {
            return Err(format!("round {round}: wrong messages for the streams {streams:?}").into());
        }
    }
    Ok(leader.close()?)
}

//! Sessions on a TCP connection: all that goes around their frames. A proxy sends proposals to its leader, and gets them back
//! in entries for three followers. `cargo run -p trunkline-codec --example connection`.

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use trunkline_codec::{EncodeError, EncodedFrame, Epochs, Frame, Limits, Options, Payload, Session};

/// What an end takes at most. A session keeps up to 12 MiB besides.
const LIMITS: Limits = Limits {
    destinations: 64,
    message_bytes: 256 << 10,
    output_bytes: 1 << 20,
    pieces: 1 << 14,
    records: 1 << 12,
    data_bytes: 1 << 20,
    set_bytes: 1 << 14,
};
/// A frame is never longer than its messages and 16 KiB more, here.
const FRAME_BYTES_MAX: usize = LIMITS.data_bytes + (16 << 10);
/// For each read and each write: who sends a byte now and then is not slow for this.
const PATIENCE: Duration = Duration::from_secs(10);

/// One end. The first error of [`write`](Self::write) or [`receive`](Self::receive) is its end: drop it, and begin another one.
/// An [`EncodeError`] leaves it as it was.
struct Connection {
    tcp: TcpStream,
    session: Session,
}

impl Connection {
    /// The handshake: each end says a number that no other connection has, for what it sends.
    fn begin(mut tcp: TcpStream) -> io::Result<Self> {
        tcp.set_nodelay(true)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_write_timeout(Some(PATIENCE))?;
        let outgoing = RandomState::new().build_hasher().finish();
        tcp.write_all(&outgoing.to_le_bytes())?;
        let mut incoming = [0; 8];
        tcp.read_exact(&mut incoming)?;
        let epochs = Epochs { outgoing, incoming: u64::from_le_bytes(incoming) };
        if epochs.incoming == epochs.outgoing {
            return Err(invalid("the other end says this end's own number"));
        }
        Ok(Self { tcp, session: Session::new(Options { limits: LIMITS, ..Options::default() }, epochs) })
    }

    /// The next frame, with a message for each of `streams`. It has to be written before another one is encoded.
    fn encode(&mut self, streams: &[u32], messages: &[Payload]) -> Result<EncodedFrame, EncodeError> {
        self.session.encode(streams, messages)
    }

    /// Writes a frame behind what it does not carry: its length, and the numbers of its streams in the order of its messages.
    fn write(&mut self, streams: &[u32], frame: &EncodedFrame) -> io::Result<()> {
        let mut around = u32::try_from(frame.len()).map_err(io::Error::other)?.to_le_bytes().to_vec();
        around.push(u8::try_from(streams.len()).map_err(io::Error::other)?);
        streams.iter().for_each(|stream| around.extend_from_slice(&stream.to_le_bytes()));
        let slices = frame.slices().iter().map(|slice| &slice[..]);
        let mut slices: Vec<IoSlice<'_>> =
            [&around[..]].into_iter().chain(slices).map(IoSlice::new).collect();
        let mut left = &mut slices[..];
        while !left.is_empty() {
            match self.tcp.write_vectored(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next frame, and the stream of each of its messages. What the peer says of lengths is held against this end's maxima
    /// before anything is allocated for it.
    fn receive(&mut self) -> io::Result<(Vec<u32>, Frame)> {
        let mut around = [0; 5];
        self.tcp.read_exact(&mut around)?;
        let [len @ .., count] = around;
        let (len, count) = (u32::from_le_bytes(len) as usize, usize::from(count));
        if len > FRAME_BYTES_MAX || count > LIMITS.destinations {
            return Err(invalid(format!(
                "a frame of {len} bytes for {count} streams: more than this end takes"
            )));
        }
        let mut numbers = vec![0; 4 * count];
        self.tcp.read_exact(&mut numbers)?;
        let (numbers, _) = numbers.as_chunks();
        let streams: Vec<u32> = numbers.iter().map(|number| u32::from_le_bytes(*number)).collect();
        let mut frame = vec![0; len];
        self.tcp.read_exact(&mut frame)?;
        let frame = self.session.parse(Bytes::from(frame), &streams).map_err(invalid)?;
        Ok((streams, frame))
    }
}

fn invalid(why: impl Into<Box<dyn Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Streams: one for the proposals, one for each follower.
const PROPOSALS: [u32; 1] = [0];
const FOLLOWERS: [u32; 3] = [11, 12, 13];
const ROUNDS: u8 = 4;

fn proposal(round: u8) -> Bytes {
    (0..1000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ round).collect()
}

/// What precedes the entry in the message to a follower: to whom, which index, and much that stays.
fn header(to: u32, index: u8) -> Bytes {
    [&to.to_le_bytes()[..], &[index], &[7; 40]].concat().into()
}

/// Both ends take turns. Where each is to read and write at any time, share an `EchoWindow` between an `EchoEncoder` and an
/// `EchoDecoder`; and an end that has nothing to send for long sends an empty message when `ack_due` says so.
fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let tcp = TcpStream::connect(listener.local_addr()?)?;
    let proxy = thread::spawn(move || propose(tcp).map_err(|error| error.to_string()));

    let mut proxy_of_eu = Connection::begin(listener.accept()?.0)?;
    println!("round  messages B  frame B  around it B");
    for round in 1..=ROUNDS {
        // The entry is made of the slices that came: what the proxy sent is named, and not sent back.
        let (streams, got) = proxy_of_eu.receive()?;
        if streams != PROPOSALS {
            return Err(format!("a frame for the streams {streams:?}, which nobody expects here").into());
        }
        let message = |to: &u32| [header(*to, round)].into_iter().chain(got.message(0)).collect();
        let messages: Vec<Payload> = FOLLOWERS.iter().map(message).collect();
        let bytes: usize = messages.iter().map(Payload::len).sum();
        let frame = proxy_of_eu.encode(&FOLLOWERS, &messages)?;
        proxy_of_eu.write(&FOLLOWERS, &frame)?;
        println!("{round:>5}  {bytes:>10}  {:>7}  {:>11}", frame.len(), 5 + 4 * FOLLOWERS.len());
    }
    proxy.join().map_err(|_| "the proxy's thread panicked")??;
    println!("the proxy has every message as it was sent");
    Ok(())
}

/// The proxy: a proposal goes up, and comes back for its followers.
fn propose(tcp: TcpStream) -> Result<(), Box<dyn Error>> {
    let mut leader = Connection::begin(tcp)?;
    for round in 1..=ROUNDS {
        let frame = leader.encode(&PROPOSALS, &[Payload::from(proposal(round))])?;
        leader.write(&PROPOSALS, &frame)?;
        let (streams, frame) = leader.receive()?;
        // Here each message goes on to the follower whose stream it is.
        for (index, to) in streams.iter().enumerate() {
            let expected = [header(*to, round), proposal(round)].concat();
            if !FOLLOWERS.contains(to) || frame.to_vec(index) != expected {
                return Err(format!("the message to {to} in round {round} is another one").into());
            }
        }
        if streams.len() != FOLLOWERS.len() {
            return Err(format!("{} messages in round {round}", streams.len()).into());
        }
    }
    Ok(())
}

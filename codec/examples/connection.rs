//! A session on a TCP connection: all that goes around its frames. `cargo run -p trunkline-codec --example connection`.

use std::error::Error;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use bytes::Bytes;
use trunkline_codec::{Epochs, Frame, Limits, Options, Payload, Session};

/// What an end takes at most: before it allocates for a length that the other end says, and in the session's limits.
const FRAME_BYTES_MAX: usize = 1 << 20;
const MESSAGES_MAX: usize = 64;

/// One end. After the first error of `send` or `receive` it is dropped, and a new one begins.
struct Connection {
    tcp: TcpStream,
    session: Session,
}

impl Connection {
    /// The handshake: each end says a number that no other connection has, for what it sends.
    fn begin(mut tcp: TcpStream) -> io::Result<Self> {
        let outgoing = RandomState::new().build_hasher().finish();
        tcp.write_all(&outgoing.to_le_bytes())?;
        let mut incoming = [0; 8];
        tcp.read_exact(&mut incoming)?;
        let epochs = Epochs { outgoing, incoming: u64::from_le_bytes(incoming) };
        // Short of the frame's maximum by more than a frame is ever longer than its messages.
        let limits = Limits {
            destinations: MESSAGES_MAX,
            output_bytes: FRAME_BYTES_MAX - (16 << 10),
            ..Limits::default()
        };
        Ok(Self { tcp, session: Session::new(Options { limits, ..Options::default() }, epochs) })
    }

    /// Sends a message to each of `streams`. Returns how long the frame was, and what was sent around it.
    fn send(&mut self, streams: &[u32], messages: &[Payload]) -> Result<(usize, usize), Box<dyn Error>> {
        let frame = self.session.encode(streams, messages)?;
        // A frame carries neither its length nor the numbers of its streams, in the order of its messages.
        let mut around = u32::try_from(frame.len())?.to_le_bytes().to_vec();
        around.push(u8::try_from(streams.len())?);
        streams.iter().for_each(|stream| around.extend_from_slice(&stream.to_le_bytes()));
        self.tcp.write_all(&around)?;
        for slice in frame.slices() {
            self.tcp.write_all(slice)?;
        }
        Ok((frame.len(), around.len()))
    }

    /// The next frame and the streams that its messages are for.
    fn receive(&mut self) -> Result<(Vec<u32>, Frame), Box<dyn Error>> {
        let mut around = [0; 5];
        self.tcp.read_exact(&mut around)?;
        let [len @ .., count] = around;
        let (len, count) = (u32::from_le_bytes(len) as usize, usize::from(count));
        if len > FRAME_BYTES_MAX || count > MESSAGES_MAX {
            return Err(format!("{len} bytes for {count} streams: more than this end takes").into());
        }
        let mut numbers = vec![0; 4 * count];
        self.tcp.read_exact(&mut numbers)?;
        let streams: Vec<u32> =
            numbers.as_chunks().0.iter().map(|number| u32::from_le_bytes(*number)).collect();
        let mut frame = vec![0; len];
        self.tcp.read_exact(&mut frame)?;
        let frame = self.session.parse(Bytes::from(frame), &streams)?;
        Ok((streams, frame))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let proxy = thread::spawn(move || -> Result<usize, String> {
        let run = || -> Result<usize, Box<dyn Error>> {
            let mut leader = Connection::begin(TcpStream::connect(address)?)?;
            let mut received = 0;
            for _ in 0..4 {
                let (streams, frame) = leader.receive()?;
                // Here each message goes on to its follower.
                received += (0..streams.len()).map(|index| frame.message_len(index)).sum::<usize>();
            }
            Ok(received)
        };
        run().map_err(|error| error.to_string())
    });

    let mut proxy_of_eu = Connection::begin(listener.accept()?.0)?;
    let followers = [11, 12, 13];
    println!("frame  messages B  frame B  around it B");
    let mut sent = 0;
    for term in 1..=4_u64 {
        // The same entry for all, behind what is each follower's own.
        let entry: Bytes = (0..1000).map(|at| (term * at % 251) as u8).collect();
        let message =
            |to: &u32| [Bytes::from(to.to_le_bytes().to_vec()), entry.clone()].into_iter().collect();
        let messages: Vec<Payload> = followers.iter().map(message).collect();
        let bytes: usize = messages.iter().map(Payload::len).sum();
        let (frame, around) = proxy_of_eu.send(&followers, &messages)?;
        println!("{term:>5}  {bytes:>10}  {frame:>7}  {around:>11}");
        sent += bytes;
    }
    let received = proxy.join().expect("the proxy's thread does not panic")?;
    println!("{received} of {sent} bytes received");
    Ok(())
}

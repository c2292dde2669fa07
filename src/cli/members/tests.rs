//! A proxy's mesh, and nodes that say what a test has them say.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use trunkline_mesh::{Client, NodeId, join};

use super::*;

/// A node that answers every question with the same text.
struct Fake {
    address: SocketAddr,
    says: Arc<Mutex<(String, usize)>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let says = Arc::<Mutex<(String, usize)>>::default();
        let said = Arc::clone(&says);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"GET /v1/members HTTP/1.1\r\n"));
                let answer = {
                    let mut said = said.lock().unwrap();
                    said.1 += 1;
                    said.0.clone()
                };
                // Who has heard enough goes away.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, says, task }
    }

    fn says(&self, body: &str) {
        self.says.lock().unwrap().0 = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}");
    }

    /// How often it was asked since the last time.
    fn asked(&self) -> usize {
        std::mem::take(&mut self.says.lock().unwrap().1)
    }
}

/// As a node tells that is ready, or not: members are called a-1 and b-1, and beside them those that joined.
fn members(index: u64, ready: bool, joined: &[(&str, &str)]) -> String {
    let place = |(node, address): &(&str, &str)| {
        format!(",{{\"node\":\"{node}\",\"datacenter\":\"d\",\"address\":\"{address}\"}}")
    };
    let joined: String = joined.iter().map(place).collect();
    let named = "{\"node\":\"a-1\",\"datacenter\":\"d\"},{\"node\":\"b-1\",\"datacenter\":\"e\"}";
    format!("{{\"index\":{index},\"term\":1,\"ready\":{ready},\"members\":[{named}{joined}]}}")
}

/// A proxy in the datacenter of `near`.
struct Proxy {
    near: Fake,
    far: Fake,
    client: Client,
    members: Members,
}

impl Proxy {
    async fn start() -> Self {
        let (near, far) = (Fake::start().await, Fake::start().await);
        let config = parse(&file(&near, &far));
        let own = config.topology().node(&NodeId::new("p").unwrap()).unwrap().clone();
        let mut mesh = config.mesh(&own);
        mesh.listen = "127.0.0.1:0".parse().ok();
        let (client, _inbox) = join(mesh).await.unwrap();
        let members = Members::of(&config, &own, client.mesh().clone());
        Self { near, far, client, members }
    }

    fn file(&self) -> String {
        file(&self.near, &self.far)
    }

    /// Asks once, and says which nodes the mesh knows beside a-1, b-1 and itself, each with where it is dialled.
    async fn known(&self) -> String {
        self.members.ask_once().await;
        self.beside()
    }

    fn beside(&self) -> String {
        let topology = self.client.mesh().topology();
        let others = topology.nodes().filter(|node| !["a-1", "b-1", "p"].contains(&node.id.as_str()));
        let shown = others.map(|node| format!("{} {}", node.id, node.address.unwrap()));
        shown.collect::<Vec<_>>().join(", ")
    }

    fn heard(&self) -> MembersHeard {
        self.members.heard().unwrap()
    }

    /// How often each was asked since the last time.
    fn asked(&self) -> (usize, usize) {
        (self.near.asked(), self.far.asked())
    }
}

fn file(near: &Fake, far: &Fake) -> String {
    let node = |name: &str, dc: &str, port: u16, fake: &Fake| {
        format!(
            "[[node]]\nid = \"{name}\"\ndc = \"{dc}\"\nroles = [\"origin\", \"member\"]\naddress = \"127.0.0.1:{port}\"\n\
             api = \"{}\"\ndata = \"x\"\n",
            fake.address
        )
    };
    format!(
        "[cluster]\nid = \"x\"\n{}{}\
         [[node]]\nid = \"p\"\ndc = \"d\"\nroles = [\"proxy\"]\naddress = \"127.0.0.1:1\"\n",
        node("a-1", "d", 2, near),
        node("b-1", "e", 3, far),
    )
}

fn parse(text: &str) -> Config {
    Config::parse(Path::new("t.toml"), text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn addresses_that_change_hands_are_all_followed_and_one_that_cannot_be_keeps_no_other_out() {
    let proxy = Proxy::start().await;
    let says = |index, joined: &[(&str, &str)]| proxy.near.says(&members(index, true, joined));
    says(1, &[("c", "127.0.0.1:10"), ("d", "127.0.0.1:11")]);
    assert_eq!(proxy.known().await, "c 127.0.0.1:10, d 127.0.0.1:11");
    // Between two questions, so that there is no order in which they could be taken one by one.
    says(2, &[("c", "127.0.0.1:11"), ("d", "127.0.0.1:10")]);
    assert_eq!(proxy.known().await, "c 127.0.0.1:11, d 127.0.0.1:10");
    says(3, &[("c", "127.0.0.1:10"), ("d", "127.0.0.1:12"), ("f", "127.0.0.1:11")]);
    assert_eq!(proxy.known().await, "c 127.0.0.1:10, d 127.0.0.1:12, f 127.0.0.1:11");
    // One is named at an address of the file's, and two at one.
    says(4, &[("c", "127.0.0.1:2"), ("d", "127.0.0.1:13"), ("f", "127.0.0.1:11"), ("g", "127.0.0.1:13")]);
    assert_eq!(proxy.known().await, "c 127.0.0.1:10, d 127.0.0.1:13, f 127.0.0.1:11");
    says(5, &[("c", "127.0.0.1:14"), ("d", "127.0.0.1:13"), ("d", "127.0.0.1:15"), ("g", "127.0.0.1:13")]);
    assert_eq!(proxy.known().await, "c 127.0.0.1:14, d 127.0.0.1:15, g 127.0.0.1:13");
}

#[tokio::test]
async fn older_members_undo_nothing_and_who_is_not_ready_has_not_the_last_word() {
    let proxy = Proxy::start().await;
    assert_eq!(proxy.heard().index, 0);
    proxy.near.says(&members(5, true, &[("d-2", "127.0.0.1:4")]));
    proxy.far.says(&members(5, true, &[("d-2", "127.0.0.1:4")]));
    assert_eq!(proxy.known().await, "d-2 127.0.0.1:4");
    assert_eq!(proxy.asked(), (1, 0), "whoever is near is enough");

    // One that has not heard of d-2 yet, and one that never will.
    proxy.near.says(&members(3, true, &[]));
    assert_eq!((proxy.known().await.as_str(), proxy.asked()), ("d-2 127.0.0.1:4", (1, 1)));
    proxy.near.says(&members(5, false, &[("d-2", "127.0.0.1:4")]));
    proxy.far.says(&members(6, true, &[("d-2", "127.0.0.1:5")]));
    assert_eq!((proxy.known().await.as_str(), proxy.asked()), ("d-2 127.0.0.1:5", (1, 1)), "it moved");
    let heard = proxy.heard();
    assert_eq!((heard.index, heard.joined, heard.failed), (6, 1, 0));

    // What is committed holds, whoever says so; but there may be more.
    proxy.near.says(&members(8, false, &[]));
    assert_eq!((proxy.known().await.as_str(), proxy.asked()), ("", (1, 1)));
    let heard = proxy.heard();
    assert_eq!((heard.index, heard.joined, heard.failed), (8, 0, 1));
    proxy.near.says(&members(8, true, &[]));
    assert_eq!((proxy.known().await.as_str(), proxy.asked(), proxy.heard().failed), ("", (1, 0), 1));
}

#[tokio::test]
async fn the_file_has_its_say_first_and_one_that_is_read_again_keeps_who_joined() {
    let proxy = Proxy::start().await;
    let joined =
        [("a-1", "127.0.0.1:9"), ("d-2", "127.0.0.1:4"), ("p", "127.0.0.1:8"), ("d-3", "127.0.0.1:3")];
    proxy.near.says(&members(5, true, &joined));
    assert_eq!(proxy.known().await, "d-2 127.0.0.1:4", "127.0.0.1:3 is b-1's");
    let address = |node: &str| {
        let topology = proxy.client.mesh().topology();
        topology.node(&NodeId::new(node).unwrap()).unwrap().address.unwrap().port()
    };
    assert_eq!((address("a-1"), address("p"), proxy.heard().joined), (2, 1, 1));

    let node = |name: &str, port: u16| {
        let roles = "roles = [\"member\"]";
        format!("[[node]]\nid = \"{name}\"\ndc = \"d\"\n{roles}\naddress = \"127.0.0.1:{port}\"\n")
    };
    let read = |more: &str| {
        proxy.members.set_file(&parse(&(proxy.file() + more))).unwrap();
        (proxy.beside(), proxy.heard().joined)
    };
    let kept = ("d-2 127.0.0.1:4, d-4 127.0.0.1:6".to_owned(), 1);
    assert_eq!(read(&node("d-4", 6)), kept);
    assert_eq!(proxy.known().await, kept.0, "the same answer says nothing new");
    assert_eq!(read(&node("d-2", 7)), ("d-2 127.0.0.1:7".to_owned(), 0));
    assert_eq!(read(""), ("d-2 127.0.0.1:4".to_owned(), 1), "it is a member still");
    // Without an address in it nobody is asked, and what is known stays.
    proxy.asked();
    let silent: String = proxy
        .file()
        .lines()
        .filter(|line| !line.starts_with("api"))
        .map(|line| line.to_owned() + "\n")
        .collect();
    proxy.members.set_file(&parse(&silent)).unwrap();
    assert_eq!((proxy.known().await.as_str(), proxy.asked()), ("d-2 127.0.0.1:4", (0, 0)));
    assert_eq!(proxy.members.heard(), None);
}

#[tokio::test]
async fn whatever_a_node_answers_costs_little_and_is_taken_only_where_it_names_members() {
    let proxy = Proxy::start().await;
    proxy.far.says("");
    let long = format!(
        "{{\"index\":5,\"term\":1,\"ready\":true,\"members\":[],\"more\":\"{}\"}}",
        "x".repeat(2 << 20)
    );
    let many: Vec<String> = (0..1_500).map(|number| format!("m-{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "127.0.0.1:4")).collect();
    for wrong in
        ["", "hello", "{}", &long, &members(5, true, &many), &members(5, true, &[("../x", "127.0.0.1:4")])]
    {
        proxy.near.says(wrong);
        assert_eq!(proxy.known().await, "", "{}", &wrong[..wrong.len().min(200)]);
    }
    proxy.near.says.lock().unwrap().0 = "SSH-2.0-x\r\n".to_owned();
    assert_eq!((proxy.known().await.as_str(), proxy.heard().failed, proxy.heard().index), ("", 7, 0));
    // Its links are plaintext and stay on this machine, whatever it is told.
    proxy.near.says(&members(
        5,
        true,
        &[("d-2", "192.0.2.1:4"), ("d-3", "127.0.0.1:5"), ("d-4", "127.0.0.1:5")],
    ));
    assert_eq!(proxy.known().await, "d-3 127.0.0.1:5", "one of two that say the same address");
    assert_eq!(proxy.heard().joined, 1);
}

//! The same over a network of its own, with the kernel's TCP all the way: the members and proxies are one process, the leader
//! is another, on two machines or in two network namespaces, and whatever lies between them is measured.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use trunkline_mesh::{ClusterId, Config, Datacenter, NodeId, NodeSpec, Roles, Security, Topology, join};

use super::traffic::{self, Line};

const MEMBERS: u16 = 5;
const PROXIES: u16 = 2;
/// Of the bare echo; those of the nodes follow.
const FIRST_PORT: u16 = 7400;

/// What the command asks for.
pub(crate) enum Far {
    /// To be the other datacenter, at this address.
    Serve(IpAddr),
    /// To lead, with the other datacenter at this address, over this line.
    Lead(IpAddr, Line),
}

impl Far {
    /// `--serve ADDRESS`, or `--to ADDRESS [--rtt-ms N] [--mbit N]`; `None` without either.
    pub(crate) fn from_args() -> Option<Self> {
        let args: Vec<String> = std::env::args().collect();
        let value = |name: &str| {
            let at = args.iter().position(|argument| argument == name)?;
            Some(args.get(at + 1).unwrap_or_else(|| panic!("{name} takes a value")).as_str())
        };
        let address = |text: &str| text.parse().expect("an IP address");
        let number = |name, default| value(name).map_or(default, |text| text.parse().expect("a number"));
        if let Some(at) = value("--serve") {
            return Some(Self::Serve(address(at)));
        }
        let line = Line {
            rtt: Duration::from_millis(number("--rtt-ms", 40)),
            bytes_per_s: number("--mbit", 50) * 1_000_000 / 8,
        };
        value("--to").map(|at| Self::Lead(address(at), line))
    }

    pub(crate) async fn run(self, rounds: (usize, usize)) {
        match self {
            Self::Serve(at) => serve(at).await,
            Self::Lead(at, line) => lead(at, line, rounds).await,
        }
    }
}

/// The leader in `us`, everybody else in `eu` at one address, a port each.
fn topology(at: IpAddr) -> Topology {
    let spec = |name: String, roles, port: u16| NodeSpec {
        id: NodeId::new(&name).expect("legal"),
        datacenter: traffic::eu(),
        roles,
        address: Some(SocketAddr::new(at, FIRST_PORT + port)),
    };
    let proxies = (1..=PROXIES).map(|number| spec(format!("eu-proxy-{number}"), Roles::PROXY, number));
    let members =
        (1..=MEMBERS).map(|number| spec(format!("eu-member-{number}"), Roles::MEMBER, PROXIES + number));
    let leader = NodeSpec {
        id: NodeId::new("leader").expect("legal"),
        datacenter: Datacenter::new("us").expect("legal"),
        roles: Roles::ORIGIN,
        address: None,
    };
    let cluster = ClusterId::new("lanes").expect("legal");
    Topology::new(cluster, proxies.chain(members).chain([leader])).expect("legal")
}

fn config(at: IpAddr, node: &NodeId) -> Config {
    let mut config = Config::new(topology(at), node.clone());
    config.security = Security::Insecure;
    config
}

async fn serve(at: IpAddr) {
    let echo = TcpListener::bind(SocketAddr::new(at, FIRST_PORT)).await.expect("a free port");
    let mut meshes = Vec::new();
    for spec in topology(at).nodes().filter(|spec| spec.datacenter == traffic::eu()) {
        let (client, mut inbox) = join(config(at, &spec.id)).await.expect("it starts");
        tokio::spawn(async move { while inbox.recv().await.is_some() {} });
        meshes.push(client);
    }
    println!("serving at {at} until it is stopped");
    traffic::echo_all(echo).await;
}

async fn lead(at: IpAddr, line: Line, rounds: (usize, usize)) {
    let mut echo = TcpStream::connect(SocketAddr::new(at, FIRST_PORT)).await.expect("somebody serves there");
    echo.set_nodelay(true).expect("an option");
    let (leader, _inbox) = join(config(at, &NodeId::new("leader").expect("legal"))).await.expect("it starts");
    let members: Vec<NodeId> = topology(at).members_of(&traffic::eu()).map(|spec| spec.id.clone()).collect();
    let linked = |leader: &trunkline_mesh::Client| {
        leader.mesh().status().links.iter().filter(|link| link.up).count() >= usize::from(PROXIES)
    };
    while !linked(&leader) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    traffic::measure(&leader, &members, &mut echo, line, rounds).await;
    leader.mesh().close();
}

//! Datacenters as network namespaces behind a router, which is one too. What it drops nobody is told of, as in a wide area network
//! and not as on loopback, where a process that is gone is known at once.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// Datacenters, each with one address that all its nodes share. Removed when dropped, and with them whoever runs there still.
pub(crate) struct Wan {
    hub: String,
    sites: Vec<(&'static str, String)>,
}

/// The number of a way that packets are dropped on, in the router's list of rules: before all others.
const CUT: &str = "10";
/// Namespaces are named by this, the id of the process that made them, and more.
const PREFIX: &str = "trunkline-test-";

/// What it printed, or why it failed.
fn ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    let [said, wrong] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    output.status.success().then_some(said).ok_or(format!("ip {}: {}", arguments.join(" "), wrong.trim()))
}

fn make(arguments: &[&str]) {
    ip(arguments).unwrap_or_else(|why| panic!("{why}"));
}

/// Ends the processes of a namespace, which would keep it, and removes it. Of what was not made there is nothing to remove.
fn remove(netns: &str) {
    let inside = ip(&["netns", "pids", netns]).unwrap_or_default();
    let _ = Command::new("sh").args(["-c", &format!("kill -KILL {}", inside.replace('\n', " "))]).output();
    let _ = ip(&["netns", "del", netns]);
}

/// The process that made a namespace, if it has a name as this file gives them: another one is not ours to remove.
fn maker(netns: &str) -> Option<u32> {
    let (process, number_and_site) = netns.strip_prefix(PREFIX)?.split_once('-')?;
    number_and_site.split_once('-')?.0.parse::<u16>().ok()?;
    process.parse().ok()
}

/// Removes what a test left that was killed: nobody knows of it but its name.
fn remove_leftovers(names: &str) {
    for netns in names.lines().filter_map(|line| line.split(' ').next()) {
        if maker(netns).is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists()) {
            remove(netns);
        }
    }
}

/// This thread is in a namespace from now on.
#[cfg(target_os = "linux")]
fn enter(netns: &str) {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let file = std::fs::File::open(Path::new("/run/netns").join(netns)).unwrap();
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network)).unwrap();
}

#[cfg(not(target_os = "linux"))]
fn enter(_: &str) {
    unreachable!("nobody made any");
}

impl Wan {
    /// Nothing, and says why, where there is no `ip` that knows of namespaces, and where this process may not make any. Whatever goes
    /// wrong once it may is a mistake of this file, and no reason to look at nothing.
    pub(crate) fn new(sites: &[&'static str]) -> Option<Self> {
        static MADE: AtomicU16 = AtomicU16::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let of = |name: &str| format!("{PREFIX}{}-{number}-{name}", std::process::id());
        let wan = Self { hub: of("hub"), sites: sites.iter().map(|site| (*site, of(site))).collect() };
        let denied = |why: &str| why.contains("Operation not permitted") || why.contains("Permission denied");
        let first = ip(&["netns", "list"]).and_then(|names| {
            remove_leftovers(&names);
            ip(&["netns", "add", &wan.hub]).inspect_err(|why| assert!(denied(why), "{why}"))
        });
        if let Err(why) = first {
            // What is printed by a test that passes is not shown.
            let _ =
                writeln!(std::io::stderr(), "no network namespaces, and nothing is looked at in them: {why}");
            return None;
        }
        wan.make();
        Some(wan)
    }

    fn make(&self) {
        let hub = self.hub.as_str();
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        make(&["netns", "exec", hub, "sh", "-c", forward]);
        for (site, netns) in &self.sites {
            let [router, address] = [1, 2].map(|host| format!("{}/24", self.host(site, host)));
            make(&["netns", "add", netns]);
            make(&["-n", netns, "link", "set", "lo", "up"]);
            make(&["-n", hub, "link", "add", site, "type", "veth", "peer", "name", "wan", "netns", netns]);
            for (netns, device, address) in [(hub, *site, router), (netns, "wan", address)] {
                make(&["-n", netns, "address", "add", &address, "dev", device]);
                make(&["-n", netns, "link", "set", device, "up"]);
            }
            make(&["-n", netns, "route", "add", "default", "via", &self.host(site, 1)]);
        }
    }

    fn host(&self, site: &str, host: usize) -> String {
        let index =
            self.sites.iter().position(|(name, _)| *name == site).expect("a datacenter of this network");
        format!("10.77.{}.{host}", index + 1)
    }

    /// The address of all nodes of a datacenter.
    pub(crate) fn address(&self, site: &str) -> String {
        self.host(site, 2)
    }

    /// A command that runs in a datacenter.
    pub(crate) fn command(&self, site: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.netns(site), program]);
        command
    }

    fn netns(&self, site: &str) -> &str {
        let of = self.sites.iter().find(|(name, _)| *name == site);
        of.map(|(_, netns)| netns).expect("a datacenter of this network")
    }

    /// A runtime whose tasks run in a datacenter.
    pub(crate) fn runtime(&self, site: &str) -> tokio::runtime::Runtime {
        let netns = self.netns(site).to_owned();
        // Threads are made where the one is that makes them.
        let made = std::thread::spawn(move || {
            enter(&netns);
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
        });
        made.join().unwrap()
    }

    /// What comes from a datacenter is lost, until it is mended.
    pub(crate) fn cut_from(&self, site: &str) {
        self.cut(["iif", site]);
    }

    /// What goes to a datacenter is lost, until it is mended.
    pub(crate) fn cut_to(&self, site: &str) {
        self.cut(["to", &self.address(site)]);
    }

    fn cut(&self, [by, whom]: [&str; 2]) {
        make(&["-n", &self.hub, "rule", "add", "pref", CUT, by, whom, "blackhole"]);
    }

    /// Everything passes again.
    pub(crate) fn mend(&self) {
        while ip(&["-n", &self.hub, "rule", "del", "pref", CUT]).is_ok() {}
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.sites.iter().map(|(_, netns)| netns).chain([&self.hub]).for_each(|netns| remove(netns));
    }
}

//! Datacenters as network namespaces behind a router, which is one too. What it drops nobody is told of, as in a wide area network
//! and not as on loopback, where a process that is gone is known at once.

use std::io::Write;
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

/// Datacenters, each with one address that all its nodes share; removed when dropped.
pub(crate) struct Wan {
    hub: String,
    sites: Vec<(&'static str, String)>,
}

/// The number of a way that packets are dropped on, in the router's list of rules: before all others.
const CUT: &str = "10";

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or(format!("ip {}: {}", arguments.join(" "), said.trim()))
}

impl Wan {
    /// Nothing, and says why, where this process may not make any.
    pub(crate) fn new(sites: &[&'static str]) -> Option<Self> {
        static MADE: AtomicU16 = AtomicU16::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let of = |name: &str| format!("trunkline-{}-{number}-{name}", std::process::id());
        let wan = Self { hub: of("hub"), sites: sites.iter().map(|site| (*site, of(site))).collect() };
        // What was made so far goes with `wan`.
        match wan.make() {
            Ok(()) => Some(wan),
            Err(why) => {
                // What is printed by a test that passes is not shown.
                let _ = writeln!(std::io::stderr(), "skipped: no network namespaces: {why}");
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let hub = self.hub.as_str();
        ip(&["netns", "add", hub])?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        ip(&["netns", "exec", hub, "sh", "-c", forward])?;
        for (site, netns) in &self.sites {
            let [router, address] = [1, 2].map(|host| format!("{}/24", self.host(site, host)));
            ip(&["netns", "add", netns])?;
            ip(&["-n", netns, "link", "set", "lo", "up"])?;
            ip(&["-n", hub, "link", "add", site, "type", "veth", "peer", "name", "wan", "netns", netns])?;
            for (netns, device, address) in [(hub, *site, router), (netns, "wan", address)] {
                ip(&["-n", netns, "address", "add", &address, "dev", device])?;
                ip(&["-n", netns, "link", "set", device, "up"])?;
            }
            ip(&["-n", netns, "route", "add", "default", "via", &self.host(site, 1)])?;
        }
        // Not every kernel has rules.
        self.sites.first().map_or(Ok(()), |(site, _)| self.add_cut(["iif", site]))?;
        self.mend();
        Ok(())
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
        let (_, netns) =
            self.sites.iter().find(|(name, _)| *name == site).expect("a datacenter of this network");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns, program]);
        command
    }

    fn add_cut(&self, of: [&str; 2]) -> Result<(), String> {
        ip(&["-n", &self.hub, "rule", "add", "pref", CUT, of[0], of[1], "blackhole"])
    }

    /// What comes from a datacenter is lost, until it is mended.
    pub(crate) fn cut_from(&self, site: &str) {
        self.add_cut(["iif", site]).unwrap();
    }

    /// What goes to a datacenter is lost, until it is mended.
    pub(crate) fn cut_to(&self, site: &str) {
        self.add_cut(["to", &self.address(site)]).unwrap();
    }

    /// Everything passes again.
    pub(crate) fn mend(&self) {
        while ip(&["-n", &self.hub, "rule", "del", "pref", CUT]).is_ok() {}
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for netns in self.sites.iter().map(|(_, netns)| netns).chain([&self.hub]) {
            // Of what was not made there is nothing to remove.
            let _ = ip(&["netns", "del", netns]);
        }
    }
}

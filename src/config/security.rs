//! `[security]`: certificates for links and the admin API, or plaintext that stays on loopback unless the file says otherwise in so many
//! words.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trunkline_mesh::{CHECK_INTERVAL, NodeId, TlsFiles};

use super::reader::{Entry, Reader, Section};
use super::units::{parse_duration, show_duration};

const FILES: [&str; 3] = ["certificate", "key", "ca"];
const EXAMPLES: [&str; 3] =
    ["\"/etc/trunkline/node.crt\"", "\"/etc/trunkline/node.key\"", "\"/etc/trunkline/ca.crt\""];

/// What stands for the id of a node in a path.
const NODE: &str = "{node}";

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// How the admin API is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// HTTP: everybody who reaches the address may ask. For loopback.
    Plaintext,
    /// HTTPS, with the mesh's own certificate, and callers show one that the cluster's CA issued, in the name of the cluster.
    /// What a reload brings, a revocation too, goes for connections that begin later; none lasts for more than a minute.
    Tls,
}

/// What protects links and the admin API.
#[derive(Clone, Debug, Default)]
pub(super) struct Security {
    /// Plaintext is allowed beyond loopback.
    pub(super) insecure: bool,
    /// Certificate, key and CA, in which [`NODE`] stands for the node.
    tls: Option<[String; 3]>,
    /// What the CA took back.
    crl: Option<String>,
    check_interval: Duration,
    /// The admin API is within TLS on loopback too.
    admin_tls: bool,
}

impl Security {
    /// Links are within TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The admin API of a node that serves it at that address.
    pub(super) fn of_admin(&self, address: SocketAddr) -> Protection {
        let wanted = self.admin_tls || (!self.insecure && !is_loopback(address));
        if self.is_tls() && wanted { Protection::Tls } else { Protection::Plaintext }
    }

    /// Every node has a path of its own, so that those of all nodes may be on one machine.
    pub(super) fn is_per_node(&self) -> bool {
        self.tls.iter().flatten().any(|path| path.contains(NODE))
    }

    /// Every key that another version has otherwise: its name, and both values. All of them are read once, at the start.
    pub(super) fn differences(&self, next: &Self) -> Vec<(&'static str, String, String)> {
        let file = |security: &Self, at: usize| {
            security.tls.as_ref().map_or("none".to_owned(), |files| files[at].clone())
        };
        let files = FILES.into_iter().enumerate().map(|(at, key)| (key, file(self, at), file(next, at)));
        let insecure = ("insecure", self.insecure.to_string(), next.insecure.to_string());
        let interval = |security: &Self| show_duration(security.check_interval);
        let interval = ("check_interval", interval(self), interval(next));
        let crl = |security: &Self| security.crl.clone().unwrap_or("none".to_owned());
        let crl = ("crl", crl(self), crl(next));
        let admin_tls = ("admin_tls", self.admin_tls.to_string(), next.admin_tls.to_string());
        let all = std::iter::once(insecure).chain(files).chain([crl, interval, admin_tls]);
        all.filter(|(_, before, after)| before != after).collect()
    }

    /// The files of a node. What is not absolute is where the configuration is.
    pub(super) fn files(&self, config: &Path, node: &NodeId) -> Option<TlsFiles> {
        let directory = config.parent().unwrap_or(Path::new(""));
        let path = |text: &String| -> PathBuf { directory.join(text.replace(NODE, node.as_str())) };
        let [certificate, key, ca] = self.tls.as_ref()?.each_ref().map(path);
        let crl = self.crl.as_ref().map(path);
        Some(TlsFiles { certificate, key, ca, crl, check_interval: self.check_interval })
    }
}

/// The section; what is wrong in it is as if it were not there.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Security {
    let mut security = Security { check_interval: CHECK_INTERVAL, ..Security::default() };
    let Some(section) = reader.section(root, "security") else { return security };
    reader.known_keys(
        &section,
        &["insecure", "certificate", "key", "ca", "crl", "check_interval", "admin_tls"],
    );
    if let Some(entry) = section.get("insecure") {
        match entry.value.and_then(|value| value.as_bool()) {
            Some(value) => security.insecure = value,
            None => reader.wrong_type(&entry, "true or false"),
        }
    }
    if FILES.iter().any(|key| section.get(key).is_some()) {
        // All of them are read before any is given up, so that all that is wrong is told.
        let [certificate, key, ca] = [0, 1, 2].map(|at| file(reader, &section, FILES[at], EXAMPLES[at]));
        // What is not sound is told already: the addresses are not to be told in addition.
        security.tls = Some([certificate, key, ca].map(Option::unwrap_or_default));
    }
    if let Some(entry) = section.get("crl") {
        security.crl = file(reader, &section, "crl", "\"/etc/trunkline/ca.crl\"");
        if security.tls.is_none() {
            let remedy = "add `certificate`, `key` and `ca`, or remove it";
            reader.report(&entry, "nothing can be taken back without certificates", remedy);
        }
    }
    if let Some(entry) = section.get("admin_tls") {
        match entry.value.and_then(|value| value.as_bool()) {
            Some(value) => security.admin_tls = value,
            None => reader.wrong_type(&entry, "true or false"),
        }
        if security.admin_tls && security.tls.is_none() {
            let remedy = "add `certificate`, `key` and `ca`, or remove it";
            reader.report(&entry, "there is no TLS without certificates", remedy);
        }
    }
    if let Some((entry, text)) = reader.text(&section, "check_interval", "\"10 s\"") {
        match parse_duration(text) {
            Err(error) => reader.report_error(&entry, &error.to_string()),
            Ok(interval) if (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) => {
                security.check_interval = interval;
            }
            Ok(_) => {
                let remedy = format!("use at least {} and at most 24 h", show_duration(INTERVAL_MIN));
                reader.report(&entry, "out of range", &remedy);
            }
        }
    }
    security
}

fn file(reader: &mut Reader<'_>, section: &Section<'_>, key: &str, example: &str) -> Option<String> {
    if section.get(key).is_none() {
        let remedy = format!("add `{key} = {example}`: certificate, key and ca belong together");
        reader.report_missing(&section.missing(key), "missing", &remedy);
        return None;
    }
    let (entry, text) = reader.text(section, key, example)?;
    let rest = text.replace(NODE, "");
    if text.is_empty() || text.contains('\0') {
        reader.report(&entry, "not a path", &format!("give the path of a PEM file, such as {example}"));
        return None;
    }
    if rest.contains(['{', '}']) {
        let remedy = "write {node} where the id of the node is to stand, and no other braces";
        reader.report(&entry, "unknown placeholder", remedy);
        return None;
    }
    if (key == "ca" || key == "crl") && rest != text {
        reader.report(&entry, "the CA is the same for every node", "give one path without {node}");
        return None;
    }
    Some(text.to_owned())
}

/// Reports every address that others could reach without protection.
pub(super) fn check(reader: &mut Reader<'_>, security: &Security, addresses: &[(Entry<'_>, SocketAddr)]) {
    if security.insecure || security.is_tls() {
        return;
    }
    for (entry, address) in addresses {
        if !is_loopback(*address) {
            report(reader, entry, *address);
        }
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn report(reader: &mut Reader<'_>, entry: &Entry<'_>, address: SocketAddr) {
    let whose = match entry.key.rsplit('.').next() {
        Some("admin") => "the admin API is",
        Some("api") => "the API for clients is",
        _ => "links are",
    };
    let what = format!(
        "{} is not a loopback address, and {whose} neither encrypted nor authenticated",
        address.ip()
    );
    let remedy = "use 127.0.0.0/8 or ::1, or give the cluster certificates (`trunkline ca`, and `certificate`, `key`, \
                  `ca` in `[security]`), or, on a network where you trust every machine, \
                  add `[security]` with `insecure = true`";
    reader.report(entry, &what, remedy);
}

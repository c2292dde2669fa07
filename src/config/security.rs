//! `[security]`: plaintext stays on loopback unless the file says otherwise in so many words.

use std::net::SocketAddr;

use super::node::Node;
use super::reader::{Entry, Reader, Section};

/// The value of `insecure`, false if it is missing or wrong.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> bool {
    let Some(section) = reader.section(root, "security") else { return false };
    reader.known_keys(&section, &["insecure"]);
    let Some(entry) = section.get("insecure") else { return false };
    let value = entry.value.and_then(|value| value.as_bool());
    if value.is_none() {
        reader.wrong_type(&entry, "true or false");
    }
    value.unwrap_or(false)
}

/// Reports every address that others could reach without `insecure`.
pub(super) fn check(reader: &mut Reader<'_>, insecure: bool, nodes: &[Node<'_>]) {
    if insecure {
        return;
    }
    for node in nodes {
        for (entry, address) in &node.addresses {
            if !is_loopback(*address) {
                report(reader, entry, *address);
            }
        }
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn report(reader: &mut Reader<'_>, entry: &Entry<'_>, address: SocketAddr) {
    let what = format!(
        "{} is not a loopback address, and links are neither encrypted nor authenticated",
        address.ip()
    );
    let remedy = "use 127.0.0.0/8 or ::1, or, on a network where you trust every machine, \
                  add `[security]` with `insecure = true`";
    reader.report(entry, &what, remedy);
}

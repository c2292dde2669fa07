//! `[[node]]`: one table per node, and the topology they make.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::DeValue;
use trunkline_mesh::{ClusterId, Datacenter, NodeId, NodeSpec, Roles, Topology, TopologyError};

use super::Local;
use super::reader::{Entry, Reader, Section, nearest};

const KEYS: [&str; 8] = ["id", "dc", "roles", "address", "listen", "admin", "data", "api"];
const ROLES: [&str; 3] = ["origin", "member", "proxy"];
const ROLES_EXAMPLE: &str = "a list such as [\"member\"], with origin, member or proxy";

/// One node as listed.
pub(super) struct Node<'a> {
    pub(super) spec: NodeSpec,
    pub(super) local: Local,
    /// Every address it binds or announces, with its place.
    pub(super) addresses: Vec<(Entry<'a>, SocketAddr)>,
    id: Entry<'a>,
    roles: Entry<'a>,
    table: Entry<'a>,
}

/// An address, with its place.
type Place<'a> = (Entry<'a>, SocketAddr);

/// All nodes that are sound in themselves and unique, and the sound addresses of all.
pub(super) fn read_all<'a>(reader: &mut Reader<'_>, root: &Section<'a>) -> (Vec<Node<'a>>, Vec<Place<'a>>) {
    const EXAMPLE: &str = "list every node of the cluster in a `[[node]]` table of its own";
    let tables = match root.get("node") {
        None => {
            reader.report_missing(&Entry::at_start("node"), "no node is listed", EXAMPLE);
            return Default::default();
        }
        Some(entry) => match entry.value {
            Some(DeValue::Array(tables)) => tables,
            _ => {
                reader.wrong_type(&entry, "`[[node]]`, in double brackets, once per node");
                return Default::default();
            }
        },
    };
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    for (index, item) in tables.iter().enumerate() {
        let DeValue::Table(table) = item.get_ref() else {
            let key = format!("node {}", index + 1);
            let entry = Entry { key, span: item.span(), value: Some(item.get_ref()) };
            reader.wrong_type(&entry, "`[[node]]`, in double brackets, once per node");
            continue;
        };
        let section = Section::item("node", index + 1, table, item.span());
        nodes.extend(read(reader, &section, item.span(), &mut addresses));
    }
    unique_ids(reader, &mut nodes);
    unique_apis(reader, &nodes);
    (nodes, addresses)
}

fn read<'a>(
    reader: &mut Reader<'_>,
    section: &Section<'a>,
    span: Range<usize>,
    all_addresses: &mut Vec<Place<'a>>,
) -> Option<Node<'a>> {
    reader.known_keys(section, &KEYS);
    let id = reader.required_text(section, "id", "\"eu-m1\"");
    let dc = reader.required_text(section, "dc", "\"eu\"");
    // All of them are read before any is given up, so that all that is wrong is told.
    let id = id.and_then(|(entry, text)| Some((checked(reader, &entry, NodeId::new(text))?, entry)));
    let dc = dc.and_then(|(entry, text)| checked(reader, &entry, Datacenter::new(text)));
    let roles = roles(reader, section);
    let address = socket_address(reader, section, "address", "\"127.0.0.1:7400\"");
    let listen = socket_address(reader, section, "listen", "\"127.0.0.1:7400\"");
    let admin = socket_address(reader, section, "admin", "\"127.0.0.1:9400\"");
    let api = socket_address(reader, section, "api", "\"127.0.0.1:7480\"");
    let data = section.get("data").map(|_| reader.text(section, "data", "\"data/{node}\""));
    let address = match address {
        Ok(Some((entry, found))) if found.ip().is_unspecified() => {
            let remedy = "give the address others dial; to bind another one, use `listen`";
            reader.report(&entry, "others cannot dial an unspecified address", remedy);
            Err(())
        }
        other => other,
    };
    let sound = [&address, &listen, &admin, &api];
    all_addresses.extend(sound.into_iter().filter_map(|found| found.clone().ok().flatten()));
    if let (Some(Some((entry, _))), Some((roles, _))) = (&data, &roles)
        && !(roles.origin && roles.member)
    {
        let remedy = "add \"origin\" and \"member\" to its roles, or remove `data`";
        reader.report(entry, "a replica sends and receives: it needs both roles", remedy);
    }
    if let (Ok(Some((entry, _))), None) = (&api, &data) {
        reader.report(entry, "only a replica has an API for clients", "add `data`, or remove `api`");
    }
    let (address, listen, admin, api) = (address.ok()?, listen.ok()?, admin.ok()?, api.ok()?);
    let data = match data {
        None => None,
        Some(found) => Some(found?),
    };
    let ((id, id_entry), (roles, roles_entry)) = (id?, roles?);
    let value = |found: &Option<(Entry<'a>, SocketAddr)>| found.as_ref().map(|(_, address)| *address);
    let local = Local {
        admin: value(&admin),
        listen: value(&listen),
        api: value(&api),
        data: data.map(|(_, text)| PathBuf::from(text.replace("{node}", id.as_str()))),
        line: reader.line(&span),
    };
    let spec = NodeSpec { id, datacenter: dc?, roles, address: value(&address) };
    let addresses = [address, listen, admin, api].into_iter().flatten().collect();
    let table = section.missing("address");
    Some(Node { spec, local, addresses, id: id_entry, roles: roles_entry, table })
}

fn checked<T>(
    reader: &mut Reader<'_>,
    entry: &Entry<'_>,
    name: Result<T, trunkline_mesh::NameError>,
) -> Option<T> {
    name.map_err(|error| reader.report_error(entry, &error.to_string())).ok()
}

fn roles<'a>(reader: &mut Reader<'_>, section: &Section<'a>) -> Option<(Roles, Entry<'a>)> {
    let Some(entry) = section.get("roles") else {
        let remedy = "add `roles = [\"member\"]`, with any of origin, member, proxy";
        reader.report_missing(&section.missing("roles"), "missing", remedy);
        return None;
    };
    let Some(DeValue::Array(items)) = entry.value else {
        reader.wrong_type(&entry, ROLES_EXAMPLE);
        return None;
    };
    let mut roles = Roles::default();
    let mut sound = true;
    for item in items {
        let place = Entry { key: entry.key.clone(), span: item.span(), value: Some(item.get_ref()) };
        match item.get_ref().as_str() {
            Some("origin") => roles.origin = true,
            Some("member") => roles.member = true,
            Some("proxy") => roles.proxy = true,
            Some(other) => {
                sound = false;
                let remedy = match nearest(other, ROLES.into_iter()) {
                    Some(near) => format!("did you mean \"{near}\"? There are origin, member and proxy"),
                    None => "use any of origin, member, proxy".to_owned(),
                };
                reader.report(&place, "unknown role", &remedy);
            }
            None => {
                sound = false;
                reader.wrong_type(&place, ROLES_EXAMPLE);
            }
        }
    }
    sound.then_some((roles, entry))
}

type Address<'a> = Result<Option<(Entry<'a>, SocketAddr)>, ()>;

/// An address that may be missing; `Err` after reporting a wrong one.
fn socket_address<'a>(
    reader: &mut Reader<'_>,
    section: &Section<'a>,
    key: &str,
    example: &str,
) -> Address<'a> {
    if section.get(key).is_none() {
        return Ok(None);
    }
    let (entry, text) = reader.text(section, key, example).ok_or(())?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        let remedy = format!(
            "write an IP address and a port such as {example} or \"[::1]:7400\"; names are not resolved"
        );
        reader.report(&entry, "not an address", &remedy);
        return Err(());
    };
    if address.port() == 0 {
        reader.report(&entry, "port 0 is a different port at every start", "give a fixed port, 1 to 65535");
        return Err(());
    }
    Ok(Some((entry, address)))
}

/// Reports and removes nodes whose id was listed before.
fn unique_ids(reader: &mut Reader<'_>, nodes: &mut Vec<Node<'_>>) {
    let mut lines: BTreeMap<NodeId, usize> = BTreeMap::new();
    nodes.retain(|node| {
        let Some(first) = lines.get(&node.spec.id) else {
            lines.insert(node.spec.id.clone(), node.local.line);
            return true;
        };
        let what = format!("node `{}` is listed twice, first on line {first}", node.spec.id);
        reader.report(&node.id, &what, "give each node its own id, or remove one of the two");
        false
    });
}

/// Reports addresses of APIs that are taken by another listener.
fn unique_apis(reader: &mut Reader<'_>, nodes: &[Node<'_>]) {
    let mut taken: BTreeMap<SocketAddr, (&NodeId, &str)> =
        nodes.iter().filter_map(|node| Some((node.spec.address?, (&node.spec.id, "mesh")))).collect();
    for node in nodes {
        for (key, address) in [("admin", node.local.admin), ("api", node.local.api)] {
            let Some(address) = address else { continue };
            if let Some((other, what)) = taken.insert(address, (&node.spec.id, key))
                && let Some((entry, _)) = node.addresses.iter().find(|(entry, _)| entry.key.ends_with(key))
            {
                let what = format!("{address} is the {what} address of node `{other}` already");
                reader.report(entry, &what, "give each listener its own address or port");
            }
        }
    }
}

/// The topology of all nodes; `None` after reporting what stands against it.
pub(super) fn topology(reader: &mut Reader<'_>, cluster: ClusterId, nodes: &[Node<'_>]) -> Option<Topology> {
    let mut sound: Vec<&Node<'_>> = nodes.iter().collect();
    let mut broken = false;
    // One error at a time comes back: leave its node out and look for the next.
    loop {
        let specs = sound.iter().map(|node| node.spec.clone());
        let error = match Topology::new(cluster.clone(), specs) {
            Ok(topology) => return Some(topology).filter(|_| !broken),
            Err(error) => error,
        };
        broken = true;
        let blamed = match &error {
            TopologyError::DuplicateNode(id) | TopologyError::NoAddress(id) | TopologyError::NoRole(id) => {
                Some(id)
            }
            TopologyError::DuplicateAddress { second, .. } => Some(second),
            _ => None,
        };
        let Some(at) = blamed.and_then(|id| sound.iter().position(|node| node.spec.id == *id)) else {
            reader.report_error(
                &sound.last().map_or(Entry::at_start("node"), |node| node.table.clone()),
                &error.to_string(),
            );
            return None;
        };
        let node = sound.remove(at);
        let entry = match &error {
            TopologyError::NoRole(_) => &node.roles,
            TopologyError::DuplicateAddress { .. } => {
                node.addresses.first().map_or(&node.table, |(entry, _)| entry)
            }
            TopologyError::DuplicateNode(_) => &node.id,
            _ => &node.table,
        };
        if !(matches!(error, TopologyError::NoAddress(_)) && reader.is_misspelt(entry)) {
            reader.report_error(entry, &error.to_string());
        }
    }
}

//! The rules of the handshake as pure functions: who may link to whom, and in which version. Bytes and order in
//! PROTOCOL.md, "Handshake".

use trunkline_codec::checksum;

use super::wire::{Hello, Offer, REFUSE_DETAIL_BYTES_MAX, Refuse, RefuseCode, VersionOffer, Welcome};
use crate::id::{ClusterId, Datacenter, Incarnation, NodeId, SpiffeId};
use crate::topology::{NodeSpec, Roles, Topology};

/// What a node says of itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Where it stands.
    pub datacenter: Datacenter,
    /// What it may do.
    pub roles: Roles,
    /// Its present life.
    pub incarnation: Incarnation,
    /// What it speaks.
    pub offer: Offer,
}

/// A handshake that ends here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Why, for counting.
    pub code: RefuseCode,
    /// Why, for people.
    pub detail: String,
    /// Highest incarnation of the peer seen, with [`RefuseCode::StaleIncarnation`].
    pub highest: Incarnation,
}

impl Refusal {
    /// A refusal with a text.
    pub fn new(code: RefuseCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), highest: Incarnation::UNKNOWN }
    }

    /// As the wire has it. The text is cut to [`REFUSE_DETAIL_BYTES_MAX`].
    #[must_use]
    pub fn body(&self) -> Refuse {
        let detail = cut_detail(&self.detail).to_owned();
        Refuse { code: self.code as u16, detail, highest_incarnation: self.highest }
    }
}

/// The whole characters of the first [`REFUSE_DETAIL_BYTES_MAX`] bytes.
pub(super) fn cut_detail(detail: &str) -> &str {
    &detail[..detail.floor_char_boundary(REFUSE_DETAIL_BYTES_MAX)]
}

/// Roles as the bits of a Hello.
#[must_use]
pub fn role_bits(roles: Roles) -> u8 {
    u8::from(roles.origin) | u8::from(roles.member) << 1 | u8::from(roles.proxy) << 2
}

/// The acceptor's checks, cheapest first. Gives the peer as the topology knows it and the version chosen.
///
/// # Errors
/// The [`Refusal`] to send.
pub fn check_hello<'a>(
    hello: &Hello,
    me: &Identity,
    topology: &'a Topology,
    highest_seen: Incarnation,
) -> Result<(&'a NodeSpec, u16), Refusal> {
    let peer = check_dialler(&hello.cluster, &hello.node, &hello.datacenter, me, topology)?;
    let version = choose_version(&me.offer.versions, &hello.versions)?;
    check_incarnation(hello.incarnation, highest_seen, me.incarnation)?;
    Ok((peer, version))
}

/// The acceptor's checks of a certificate, before a byte of what its holder says is read.
///
/// # Errors
/// The [`Refusal`] to send.
pub fn check_dialler_certificate(
    certified: &SpiffeId,
    me: &Identity,
    topology: &Topology,
) -> Result<(), Refusal> {
    check_dialler(&certified.cluster, &certified.node, &certified.datacenter, me, topology).map(|_| ())
}

/// The acceptor's check that a Hello is the certificate's holder's own.
///
/// # Errors
/// The [`Refusal`] to send.
pub fn check_claim(hello: &Hello, certified: &SpiffeId) -> Result<(), Refusal> {
    let SpiffeId { cluster, datacenter, node } = certified;
    if (&hello.cluster, &hello.datacenter, &hello.node) == (cluster, datacenter, node) {
        return Ok(());
    }
    let detail = format!(
        "says it is `{}` of `{}` in cluster `{}`, and its certificate is {certified}",
        hello.node, hello.datacenter, hello.cluster
    );
    Err(Refusal::new(RefuseCode::OtherCertificate, detail))
}

/// The dialler's checks of the certificate of whoever answered, before a Hello is sent.
///
/// # Errors
/// The [`Refusal`], to be counted: nothing is sent to a stranger.
pub fn check_acceptor_certificate(
    certified: &SpiffeId,
    dialled: &NodeId,
    me: &Identity,
    topology: &Topology,
) -> Result<(), Refusal> {
    if certified.node != *dialled {
        let detail = format!("dialled `{dialled}`, {certified} answered: check the addresses");
        return Err(Refusal::new(RefuseCode::OtherNode, detail));
    }
    check_peer(&certified.cluster, &certified.node, &certified.datacenter, me, topology).map(|_| ())
}

/// The dialler's checks of the answer.
///
/// # Errors
/// The [`Refusal`] to send.
pub fn check_welcome(
    welcome: &Welcome,
    dialled: &NodeId,
    me: &Identity,
    topology: &Topology,
    highest_seen: Incarnation,
) -> Result<(), Refusal> {
    if welcome.node != *dialled {
        let detail = format!("dialled `{dialled}`, `{}` answered: check the addresses", welcome.node);
        return Err(Refusal::new(RefuseCode::OtherNode, detail));
    }
    check_peer(&welcome.cluster, &welcome.node, &welcome.datacenter, me, topology)?;
    let best = choose_version(&me.offer.versions, &welcome.versions)?;
    if welcome.version != best {
        let detail = format!("version {} was chosen although both sides speak {best}", welcome.version);
        return Err(Refusal::new(RefuseCode::VersionsStripped, detail));
    }
    check_incarnation(welcome.incarnation, highest_seen, me.incarnation)
}

/// The connections of a link speak one version: whatever is sealed goes by either. `linked` is that of the other one, if there is any.
pub(super) fn check_same_version(linked: u16, chosen: u16) -> Result<(), Refusal> {
    if linked == 0 || linked == chosen {
        return Ok(());
    }
    Err(Refusal::new(RefuseCode::Malformed, "one link, two wire versions"))
}

fn check_dialler<'a>(
    cluster: &ClusterId,
    node: &NodeId,
    datacenter: &Datacenter,
    me: &Identity,
    topology: &'a Topology,
) -> Result<&'a NodeSpec, Refusal> {
    let peer = check_peer(cluster, node, datacenter, me, topology)?;
    if peer.roles.origin || (peer.roles.proxy && peer.datacenter == me.datacenter) {
        return Ok(peer);
    }
    let detail = format!(
        "`{}` is {}: only origins, and proxies of this datacenter, may open links here",
        peer.id, peer.roles
    );
    Err(Refusal::new(RefuseCode::WrongRole, detail))
}

fn check_peer<'a>(
    cluster: &ClusterId,
    node: &NodeId,
    datacenter: &Datacenter,
    me: &Identity,
    topology: &'a Topology,
) -> Result<&'a NodeSpec, Refusal> {
    if *cluster != me.cluster {
        let detail = format!("this is cluster `{}`, not `{cluster}`", me.cluster);
        return Err(Refusal::new(RefuseCode::OtherCluster, detail));
    }
    let Some(peer) = topology.node(node) else {
        return Err(Refusal::new(RefuseCode::UnknownNode, format!("`{node}` is not in the topology")));
    };
    if peer.datacenter != *datacenter {
        let detail = format!("`{node}` stands in `{}`, not in `{datacenter}`", peer.datacenter);
        return Err(Refusal::new(RefuseCode::WrongDatacenter, detail));
    }
    Ok(peer)
}

/// The highest version that both speak with the same schema.
fn choose_version(ours: &[VersionOffer], theirs: &[VersionOffer]) -> Result<u16, Refusal> {
    let common = |offer: &&VersionOffer| theirs.iter().any(|their| their.0 == offer.0);
    let Some(best) = ours.iter().filter(common).max_by_key(|offer| offer.0) else {
        let list = |offers: &[VersionOffer]| {
            offers.iter().take(8).map(|offer| offer.0.to_string()).collect::<Vec<_>>().join(", ")
        };
        let detail = format!("no common wire version: [{}] here, [{}] there", list(ours), list(theirs));
        return Err(Refusal::new(RefuseCode::NoCommonVersion, detail));
    };
    if theirs.contains(best) {
        Ok(best.0)
    } else {
        let detail = format!("wire version {} has another schema there: not the same build line", best.0);
        Err(Refusal::new(RefuseCode::SchemaMismatch, detail))
    }
}

fn check_incarnation(
    claimed: Incarnation,
    highest_seen: Incarnation,
    mine: Incarnation,
) -> Result<(), Refusal> {
    if !is_plausible(highest_seen.max(mine), claimed) {
        // Taken for true it would shut the node out for ever: nothing higher could follow.
        let detail = format!("incarnation {} is no time that a clock shows", claimed.0);
        return Err(Refusal::new(RefuseCode::Malformed, detail));
    }
    if claimed < highest_seen || !claimed.is_known() {
        let detail = format!("incarnation {} is older than {}, seen before", claimed.0, highest_seen.0);
        return Err(Refusal { code: RefuseCode::StaleIncarnation, detail, highest: highest_seen });
    }
    Ok(())
}

/// What both ends hold in common after Hello and Welcome.
#[must_use]
pub fn transcript(hello: &[u8], welcome: &[u8]) -> u32 {
    checksum::append(checksum::crc32c(hello), welcome)
}

/// A clock that was never set shows 1970, one that is badly wrong some year of this century: 200 years, in µs, are more than
/// lies between two clocks.
const CLOCK_SPAN_US: u64 = 200 * 365 * 24 * 3600 * 1_000_000;

/// A life that is not nonsense, as seen from one that is known: a clock may have given it, or a node may have adopted it above
/// what a clock gave. So it may be two spans ahead: one for the clocks of the two nodes, one for what is adopted.
#[must_use]
pub fn is_plausible(known: Incarnation, claimed: Incarnation) -> bool {
    claimed.0.saturating_sub(known.0) < 2 * CLOCK_SPAN_US
}

/// A life past which a node that started as `born` moves when it is told of it. Measured from its start, whatever it adopted
/// since: step by step nobody leads it further than everybody believes.
#[must_use]
pub fn is_claimable(born: Incarnation, claimed: Incarnation) -> bool {
    claimed.0.saturating_sub(born.0) < CLOCK_SPAN_US - ADOPTION_SPREAD_US
}

/// The incarnation to take after a peer said it has seen `highest`, or `None` to keep the present one.
///
/// Not simply the next one: two starts in a row may each be told the same `highest`, the second by a peer that never heard of
/// the first. Under one number, the messages of the second would be taken for duplicates of the first one's. `drawn` is random.
#[must_use]
pub fn adopt(
    born: Incarnation,
    present: Incarnation,
    highest: Incarnation,
    drawn: u64,
) -> Option<Incarnation> {
    let next = highest.next().0.saturating_add(drawn % ADOPTION_SPREAD_US);
    (highest >= present && is_claimable(born, highest)).then_some(Incarnation(next))
}

/// Adopted incarnations are spread over so many: ten seconds in µs.
const ADOPTION_SPREAD_US: u64 = 10 * 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::wire::{WIRE_VERSION, offered_versions};

    fn topology() -> Topology {
        let node = |id: &str, dc: &str, roles, port: u16| NodeSpec {
            id: NodeId::new(id).unwrap(),
            datacenter: Datacenter::new(dc).unwrap(),
            roles,
            address: Some(([127, 0, 0, 1], port).into()),
        };
        let nodes = [
            node("leader", "us", Roles::ORIGIN, 1),
            node("eu-p", "eu", Roles::PROXY, 2),
            node("eu-m", "eu", Roles::MEMBER, 3),
            node("ap-p", "ap", Roles::PROXY, 4),
        ];
        Topology::new(ClusterId::new("c").unwrap(), nodes).unwrap()
    }

    fn identity(id: &str) -> Identity {
        let topology = topology();
        let spec = topology.node(&NodeId::new(id).unwrap()).unwrap();
        Identity {
            cluster: topology.cluster().clone(),
            node: spec.id.clone(),
            datacenter: spec.datacenter.clone(),
            roles: spec.roles,
            incarnation: Incarnation(100),
            offer: Offer::default(),
        }
    }

    fn hello(id: &str) -> Hello {
        let me = identity(id);
        Hello {
            cluster: me.cluster,
            node: me.node,
            datacenter: me.datacenter,
            roles: role_bits(me.roles),
            incarnation: me.incarnation,
            versions: offered_versions(),
            features: 0,
            frame_bytes_max: 1 << 24,
            link: 1,
            lane: 0,
            sent_us: 0,
        }
    }

    fn refusal(hello: &Hello, to: &str, highest: u64) -> Option<RefuseCode> {
        check_hello(hello, &identity(to), &topology(), Incarnation(highest)).err().map(|refusal| refusal.code)
    }

    #[test]
    fn each_check_of_a_hello_has_its_code() {
        assert_eq!(refusal(&hello("leader"), "eu-p", 0), None);
        assert_eq!(refusal(&hello("leader"), "eu-m", 100), None);
        assert_eq!(refusal(&hello("eu-p"), "eu-m", 0), None);
        assert_eq!(refusal(&hello("ap-p"), "eu-m", 0), Some(RefuseCode::WrongRole));
        assert_eq!(refusal(&hello("eu-m"), "eu-p", 0), Some(RefuseCode::WrongRole));
        assert_eq!(refusal(&hello("leader"), "eu-p", 101), Some(RefuseCode::StaleIncarnation));
        let other = Hello { cluster: ClusterId::new("d").unwrap(), ..hello("leader") };
        assert_eq!(refusal(&other, "eu-p", 0), Some(RefuseCode::OtherCluster));
        let unknown = Hello { node: NodeId::new("who").unwrap(), ..hello("leader") };
        assert_eq!(refusal(&unknown, "eu-p", 0), Some(RefuseCode::UnknownNode));
        let moved = Hello { datacenter: Datacenter::new("ap").unwrap(), ..hello("leader") };
        assert_eq!(refusal(&moved, "eu-p", 0), Some(RefuseCode::WrongDatacenter));
        let newer = Hello { versions: vec![(WIRE_VERSION + 1, 5)], ..hello("leader") };
        assert_eq!(refusal(&newer, "eu-p", 0), Some(RefuseCode::NoCommonVersion));
        let fork = Hello { versions: vec![(WIRE_VERSION, 5)], ..hello("leader") };
        assert_eq!(refusal(&fork, "eu-p", 0), Some(RefuseCode::SchemaMismatch));
        let both = Hello { versions: [offered_versions(), vec![(9, 9)]].concat(), ..hello("leader") };
        assert_eq!(refusal(&both, "eu-p", 0), None, "the highest common one wins");
    }

    fn certified(id: &str) -> SpiffeId {
        let Identity { cluster, datacenter, node, .. } = identity(id);
        SpiffeId { cluster, datacenter, node }
    }

    #[test]
    fn a_certificate_is_checked_before_what_its_holder_says() {
        let dialler = |name: &SpiffeId, to: &str| {
            check_dialler_certificate(name, &identity(to), &topology()).err().map(|refusal| refusal.code)
        };
        assert_eq!(dialler(&certified("leader"), "eu-p"), None);
        assert_eq!(dialler(&certified("ap-p"), "eu-m"), Some(RefuseCode::WrongRole));
        let unknown = SpiffeId { node: NodeId::new("who").unwrap(), ..certified("leader") };
        assert_eq!(dialler(&unknown, "eu-p"), Some(RefuseCode::UnknownNode));
        let moved = SpiffeId { datacenter: Datacenter::new("ap").unwrap(), ..certified("leader") };
        assert_eq!(dialler(&moved, "eu-p"), Some(RefuseCode::WrongDatacenter));
        let other = SpiffeId { cluster: ClusterId::new("d").unwrap(), ..certified("leader") };
        assert_eq!(dialler(&other, "eu-p"), Some(RefuseCode::OtherCluster));

        let acceptor = |name: &SpiffeId, dialled: &str| {
            let dialled = NodeId::new(dialled).unwrap();
            let checked = check_acceptor_certificate(name, &dialled, &identity("leader"), &topology());
            checked.err().map(|refusal| refusal.code)
        };
        assert_eq!(acceptor(&certified("eu-p"), "eu-p"), None);
        assert_eq!(acceptor(&certified("eu-m"), "eu-p"), Some(RefuseCode::OtherNode));
        let other = SpiffeId { cluster: ClusterId::new("d").unwrap(), ..certified("eu-p") };
        assert_eq!(acceptor(&other, "eu-p"), Some(RefuseCode::OtherCluster));

        let claim =
            |hello: &Hello, id: &str| check_claim(hello, &certified(id)).map_err(|refusal| refusal.code);
        assert_eq!(claim(&hello("leader"), "leader"), Ok(()));
        assert_eq!(claim(&hello("leader"), "eu-p"), Err(RefuseCode::OtherCertificate));
        let moved = Hello { datacenter: Datacenter::new("ap").unwrap(), ..hello("leader") };
        assert_eq!(claim(&moved, "leader"), Err(RefuseCode::OtherCertificate));
    }

    #[test]
    fn the_dialler_checks_who_answered_and_what_was_chosen() {
        let me = identity("leader");
        let peer = identity("eu-p");
        let welcome = Welcome {
            cluster: peer.cluster,
            node: peer.node.clone(),
            datacenter: peer.datacenter,
            roles: 4,
            incarnation: peer.incarnation,
            versions: offered_versions(),
            features: 0,
            frame_bytes_max: 1 << 24,
            version: WIRE_VERSION,
            hello_sent_us: 0,
            hello_received_us: 0,
            sent_us: 0,
        };
        let check = |welcome: &Welcome, dialled: &NodeId| {
            check_welcome(welcome, dialled, &me, &topology(), Incarnation(100))
                .err()
                .map(|refusal| refusal.code)
        };
        assert_eq!(check(&welcome, &peer.node), None);
        assert_eq!(check(&welcome, &me.node), Some(RefuseCode::OtherNode));
        let stripped = Welcome { version: 0, ..welcome.clone() };
        assert_eq!(check(&stripped, &peer.node), Some(RefuseCode::VersionsStripped));
        let old = Welcome { incarnation: Incarnation(99), ..welcome };
        assert_eq!(check(&old, &peer.node), Some(RefuseCode::StaleIncarnation));
    }

    #[test]
    fn an_incarnation_is_adopted_upwards_within_reason() {
        let adopted = |born, present, highest| adopt(Incarnation(born), Incarnation(present), highest, 0);
        assert_eq!(adopted(5, 5, Incarnation(9)), Some(Incarnation(10)));
        assert_eq!(adopted(5, 5, Incarnation(4)), None);
        assert_eq!(adopted(5, 5, Incarnation(u64::MAX)), None);
        assert_eq!(adopted(5, 10, Incarnation(9)), None, "past it already");
        let nonsense = Hello { incarnation: Incarnation(u64::MAX), ..hello("leader") };
        assert_eq!(refusal(&nonsense, "eu-p", 0), Some(RefuseCode::Malformed));
    }

    #[test]
    fn however_often_a_node_adopts_a_life_it_is_one_that_peers_believe() {
        let born = Incarnation(100);
        let mut life = born;
        // The largest step there is, and again from there.
        while let Some(next) =
            adopt(born, life, Incarnation(life.0.max(born.0 + CLOCK_SPAN_US / 2)), u64::MAX)
            && life.0 < born.0 + CLOCK_SPAN_US / 2 + 1000 * ADOPTION_SPREAD_US
        {
            life = next;
        }
        let last = born.0 + CLOCK_SPAN_US - ADOPTION_SPREAD_US - 1;
        life = adopt(born, life, Incarnation(last), u64::MAX).expect("within reach");
        assert_eq!(adopt(born, life, life, 0), None, "and that is the end of it");
        // To one whose clock shows the same, to one that was never set, and to one that heard of it.
        for (mine, seen) in [(born.0, 0), (0, 0), (0, born.0)] {
            let me = Identity { incarnation: Incarnation(mine), ..identity("eu-p") };
            let said = Hello { incarnation: life, ..hello("leader") };
            assert!(check_hello(&said, &me, &topology(), Incarnation(seen)).is_ok(), "{mine} {seen}");
        }
    }

    #[test]
    fn two_starts_that_are_told_the_same_adopt_different_lives() {
        let adopted =
            |drawn| adopt(Incarnation(5), Incarnation(5), Incarnation(9), drawn).expect("within reach");
        assert_ne!(adopted(1), adopted(2));
        assert_eq!(adopted(u64::MAX).0, 10 + u64::MAX % ADOPTION_SPREAD_US, "and not far above");
    }

    #[test]
    fn refusal_text_is_cut_at_a_character() {
        let refusal = Refusal::new(RefuseCode::Malformed, "é".repeat(200));
        assert!(refusal.body().detail.len() <= 256);
    }
}

//! What depends on the clock: the age of lists, and how long copies are kept.

use super::*;

/// A CA of its own, and the directory that it is in.
fn authority() -> (tempfile::TempDir, Authority) {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path(), &ClusterId::new("test").unwrap(), CA_DAYS).unwrap();
    let authority = Authority::load(directory.path()).unwrap();
    (directory, authority)
}

/// Nodes refuse a list that is older than the one in use: a clock that stood ahead once, or two lists in one second, would else keep
/// what is taken back from them.
#[test]
fn every_list_is_later_than_the_one_that_it_replaces() {
    let (directory, authority) = authority();
    let path = directory.path().join("ca.crl");
    let ahead = list_pem(&authority.issuer, &BTreeMap::new(), now_s() + 3600, at(authority.info.not_after_s));
    fs::write(&path, ahead.unwrap()).unwrap();
    let made_s = || read_revocation_lists(&path).unwrap()[0].made_s;
    for (before, serial) in (made_s()..).zip(["01", "02", "03"]) {
        authority.revoke(&[], &[serial.to_owned()]).unwrap();
        assert_eq!(made_s(), before + 1);
    }
}

/// What another CA took back, and when it did, is none of this one's: nodes are given a file of both, and here its own belongs.
#[test]
fn a_list_of_another_ca_is_not_taken_on() {
    let ((directory, ours), (_other, theirs)) = (authority(), authority());
    let path = directory.path().join("ca.crl");
    let own = read(&path).unwrap();
    let until = at(theirs.info.not_after_s);
    let another = list_pem(&theirs.issuer, &BTreeMap::from([("07".to_owned(), 0)]), now_s(), until).unwrap();
    for lists in [another.clone(), own.clone() + &another, another + &own] {
        fs::write(&path, &lists).unwrap();
        let refused = ours.revoke(&[], &["01".to_owned()]).unwrap_err();
        assert!(matches!(refused, CaError::OtherList { .. }), "{refused}");
        assert_eq!(read(&path).unwrap(), lists);
    }
}

/// Whoever wrote it, with whichever clock.
#[test]
fn no_list_follows_one_of_the_end_of_a_ca_or_later() {
    const YEAR_9999_S: i64 = 253_402_300_799;
    let (directory, authority) = authority();
    let path = directory.path().join("ca.crl");
    let end = authority.info.not_after_s;
    for (made_s, is_last) in [(end - 2, false), (end - 1, true), (end, true), (YEAR_9999_S - 1, true)] {
        let list = list_pem(&authority.issuer, &BTreeMap::new(), made_s, at(YEAR_9999_S));
        fs::write(&path, list.unwrap()).unwrap();
        let taken = authority.revoke(&[], &["01".to_owned()]);
        assert_eq!(matches!(taken, Err(CaError::NoLaterList { .. })), is_last, "{made_s}: {taken:?}");
    }
}

/// A link outlives its certificate by a day, and a thief's as well.
#[test]
fn what_expired_within_a_day_can_still_be_taken_back() {
    let (_directory, authority) = authority();
    let node = NodeId::new("eu-m").unwrap();
    let pem = |expired_s: i64| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri("spiffe://test/dc/eu/node/eu-m").unwrap()];
        params.not_before = at(now_s() - 3 * 24 * 3600);
        params.not_after = at(now_s() - expired_s);
        params.signed_by(&KeyPair::generate().unwrap(), &authority.issuer).unwrap().pem()
    };
    let old = authority.record(&pem(EXPIRED_SPAN_S + 60)).unwrap();
    let recent = authority.record(&pem(EXPIRED_SPAN_S - 3600)).unwrap();
    assert!(!old.exists() && recent.exists(), "a copy goes with the last link");
    assert_eq!(authority.issued_to(&node, None).unwrap(), [recent]);
}

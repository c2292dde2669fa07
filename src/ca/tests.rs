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

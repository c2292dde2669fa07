//! What a wrong configuration file is told: each `tests/config/NAME.toml` beside its expected `NAME.txt`.
//!
//! `REWRITE=1 cargo test --test config` writes the expected texts anew; review the difference.

use std::path::{Path, PathBuf};

use trunkline::config::Config;

fn files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("tests/config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    files
}

#[test]
fn wrong_files_are_told_line_column_key_and_remedy() {
    let rewrite = std::env::var_os("REWRITE").is_some();
    let files = files();
    assert!(files.len() >= 15, "{} files", files.len());
    let mut differing = Vec::new();
    for path in files {
        let error = Config::load(&path).expect_err(&path.display().to_string());
        let found = format!("{error}\n");
        let expected_path = path.with_extension("txt");
        if rewrite {
            std::fs::write(&expected_path, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if found != expected {
            differing.push(format!("== {}\n{found}-- expected\n{expected}", path.display()));
        }
    }
    assert!(differing.is_empty(), "REWRITE=1 and review, if meant:\n{}", differing.join("\n"));
}

#[test]
fn every_problem_names_its_place_and_a_remedy() {
    for path in files() {
        let Err(trunkline::config::ConfigError::Invalid(problems)) = Config::load(&path) else {
            panic!("{}", path.display());
        };
        for problem in problems.list() {
            assert!(problem.line >= 1 && problem.column >= 1, "{problem:?}");
            assert!(
                !problem.key.is_empty() && !problem.what.is_empty() && !problem.remedy.is_empty(),
                "{problem:?}"
            );
        }
    }
}

#[test]
fn the_example_is_a_configuration() {
    let config = Config::load(Path::new("deploy/config/example.toml")).unwrap();
    assert_eq!(config.topology().datacenters().len(), 3);
    for datacenter in config.topology().datacenters() {
        assert_eq!(config.topology().proxies_of(&datacenter).count(), 2, "{datacenter}");
        assert!(config.topology().members_of(&datacenter).count() >= 3, "{datacenter}");
    }
    assert_eq!(config.settings(), &trunkline_mesh::Settings::default(), "the example shows the defaults");
}

#[test]
fn the_example_shows_every_key() {
    let text = std::fs::read_to_string("deploy/config/example.toml").unwrap();
    // The debug form names all fields.
    let debug = format!("{:?}", trunkline_mesh::Settings::default());
    let keys = debug.split(['{', ',']).filter_map(|part| Some(part.trim().split_once(": ")?.0));
    for key in keys.chain([
        "id",
        "dc",
        "roles",
        "address",
        "admin",
        "listen",
        "insecure",
        "certificate",
        "key",
        "ca",
        "crl",
        "check_interval",
        "admin_tls",
    ]) {
        assert!(text.contains(&format!("{key} = ")), "{key}");
    }
}

#[test]
fn every_prefix_and_every_flipped_byte_is_survived() {
    let text = std::fs::read("tests/config/everything.toml").unwrap();
    for at in 0..text.len() {
        let _ = Config::parse(Path::new("x"), &text[..at]).map_err(|problems| problems.to_string());
        let mut flipped = text.clone();
        flipped[at] ^= 0x55;
        let _ = Config::parse(Path::new("x"), &flipped).map_err(|problems| problems.to_string());
    }
}

#[test]
fn a_file_without_an_end_is_left_in_time() {
    let error = Config::load(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(error.contains("/dev/zero goes on after 16 MiB"), "{error}");
}

#[test]
fn time_grows_with_the_file_and_not_with_its_square() {
    let mut text = "[cluster]\nid = \"c\"\n".to_owned();
    for index in 0..20_000 {
        let (dc, [high, low]) = (index % 40, u16::try_from(index).unwrap().to_be_bytes());
        text += &format!(
            "[[node]]\nid = \"n{index}\"\ndc = \"d{dc}\"\nroles = [\"member\"]\naddress = \"127.0.{high}.{low}:1\"\n"
        );
    }
    let begun = std::time::Instant::now();
    let config = Config::parse(Path::new("x"), text.as_bytes()).unwrap();
    assert_eq!(config.topology().nodes().count(), 20_000);
    // Counting lines from the top for each node took half a minute.
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn insecure_opens_addresses_beyond_loopback() {
    let file = |security: &str| {
        format!(
            "{security}\n[cluster]\nid = \"c\"\n[[node]]\nid = \"m\"\ndc = \"eu\"\nroles = [\"member\"]\n\
             address = \"10.0.0.1:7400\"\nlisten = \"0.0.0.0:7400\"\nadmin = \"0.0.0.0:9400\"\n"
        )
    };
    let refused = Config::parse(Path::new("x"), file("").as_bytes()).unwrap_err();
    assert_eq!(refused.list().len(), 3, "{refused}");
    assert!(refused.to_string().contains("neither encrypted nor authenticated"), "{refused}");
    let config = Config::parse(Path::new("x"), file("[security]\ninsecure = true").as_bytes()).unwrap();
    assert!(config.insecure());
}

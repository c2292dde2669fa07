//! The fuzz targets of `fuzz/`, run with the inputs that were saved there and with random ones. `FUZZ_CASES=100000` makes
//! it a longer search.

mod bodies;

use std::path::Path;

use fastrand::Rng;

/// Inputs per target.
const CASES: u64 = 3000;

/// Bytes of one input: long or short, of few values or of all.
fn input(seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let longest = [16, 200, 4000][rng.usize(..3)];
    let (len, most) = (rng.usize(..longest), [8, 64, 255][rng.usize(..3)]);
    (0..len).map(|_| if rng.u8(..) < 40 { rng.u8(..) } else { rng.u8(..=most) }).collect()
}

#[test]
fn no_target_finds_anything_in_random_inputs() {
    let cases = std::env::var("FUZZ_CASES").ok().map_or(CASES, |cases| cases.parse().unwrap());
    for (name, target) in bodies::TARGETS {
        for seed in 0..cases {
            let data = input(seed);
            if let Err(panic) = std::panic::catch_unwind(|| target(&data)) {
                eprintln!("target {name}, seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn no_target_finds_anything_in_the_saved_inputs() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/saved");
    for (name, target) in bodies::TARGETS {
        let saved = std::fs::read_to_string(directory.join(name).with_extension("hex")).unwrap();
        assert!(saved.lines().count() >= 100, "{name}");
        for line in saved.lines() {
            let digit = |at: usize| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            let data: Vec<u8> = (0..line.len()).step_by(2).map(digit).collect();
            if let Err(panic) = std::panic::catch_unwind(|| target(&data)) {
                eprintln!("target {name}, saved input {line}");
                std::panic::resume_unwind(panic);
            }
        }
    }
}

#[test]
fn every_target_has_a_body_and_every_body_a_target() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<String> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    files.sort();
    let mut names = bodies::TARGETS.map(|(name, _)| name);
    names.sort_unstable();
    assert_eq!(files, names);
    let manifest =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
    }
}

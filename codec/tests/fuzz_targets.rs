//! The fuzz targets of `fuzz/`, which is a package of its own: they are those of `bodies`, and find nothing in the inputs that were
//! saved there.

mod bodies;

use std::path::Path;

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

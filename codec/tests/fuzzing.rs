//! What the fuzz targets look for, in random inputs. `FUZZ_CASES=100000` makes it a longer search.

mod bodies;

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

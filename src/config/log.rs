//! `[log]`: how much is logged where neither the command line nor the environment says.

use tracing_subscriber::EnvFilter;

use super::reader::{Reader, Section, nearest};

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Rules of what is logged, from a text such as `info` or `warn,trunkline_mesh=debug`. A level alone is for Trunkline: the
/// consensus engine has one below it.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn parse_level(text: &str) -> Result<EnvFilter, String> {
    let text = text.trim();
    // A single word that is no level would be taken for the name of a module, and nothing would be logged.
    if !text.contains(['=', ',']) && !LEVELS.contains(&text.to_ascii_lowercase().as_str()) {
        let meant =
            nearest(text, LEVELS.into_iter()).map_or(String::new(), |near| format!("did you mean {near}? "));
        let shown: String = text.chars().take(64).flat_map(char::escape_default).collect();
        return Err(format!("no log level `{shown}`: {meant}there are {}", LEVELS.join(", ")));
    }
    // What the engine tells is for whoever changes it, in its own words and again with each message; replicas tell of leaders, members
    // and of whoever does not answer, and of an engine that stops.
    let engine = match text.to_ascii_lowercase().as_str() {
        "error" | "warn" | "info" => ",openraft=off",
        "debug" => ",openraft=info",
        _ => "",
    };
    EnvFilter::try_new(format!("{text}{engine}"))
        .map_err(|error| format!("the log level cannot be read: {error}"))
}

/// The level of the file, if it has one.
pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_>) -> Option<String> {
    let section = reader.section(root, "log")?;
    reader.known_keys(&section, &["level"]);
    section.get("level")?;
    let (entry, text) = reader.text(&section, "level", "\"info\"")?;
    match parse_level(text) {
        Ok(_) => Some(text.to_owned()),
        Err(error) => {
            reader.report_error(&entry, &error);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_tells_nothing_below_debug() {
        let rules = |text: &str| parse_level(text).unwrap().to_string();
        for level in ["error", "warn", "info", " INFO "] {
            assert!(rules(level).contains("openraft=off"), "{level}: {}", rules(level));
        }
        assert!(rules("debug").contains("openraft=info"));
        assert!(!rules("trace").contains("openraft"));
        // Whoever names rules has them.
        assert_eq!(rules("info,openraft=warn"), "openraft=warn,info");
    }
}

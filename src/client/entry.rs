//! What a node tells, line by line.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

/// A committed entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place in the log, the same at every node.
    pub index: u64,
    /// In which term it was appended.
    pub term: u64,
    /// What it says.
    pub what: What,
    /// The line of JSON that a node told it as.
    pub line: String,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum What {
    /// Nothing: a new leader's first entry.
    Nothing,
    /// A session begins, and is called by the entry's index.
    OpensSession,
    /// Who is in the cluster from here on.
    Membership(Value),
    /// For the state machine.
    Operation {
        /// The session, and the number within it, where it was proposed in one.
        request: Option<(u64, u64)>,
        /// What was proposed.
        operation: Bytes,
        /// What became of it; `None` where the node does not know that any longer, or is of an earlier version.
        outcome: Option<Outcome>,
    },
    /// Something that this version does not know.
    Other(String),
}

/// What became of an operation of the key-value machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// It was done.
    Done,
    /// Its condition did not hold: nothing was done.
    Conflict {
        /// The entry that had changed the key last; 0 where it was not there.
        mod_index: u64,
    },
    /// It is no operation: nothing was done.
    Invalid {
        /// Why.
        why: String,
    },
    /// It was proposed again in its session: what became of it an earlier entry says, and nothing was done by this one.
    Repeated,
    /// Its session was over: nothing was done.
    SessionExpired,
    /// Its session had come much further: nothing was done by this entry.
    AnswerForgotten,
}

/// A line.
#[derive(Debug, PartialEq)]
pub(super) enum Line {
    Entry(Entry),
    /// All entries up to this one were told, or left out because they are not asked for.
    Progress(u64),
    /// The last one, and why.
    End(End),
}

/// Why a node tells no more.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct End {
    pub(super) code: String,
    pub(super) message: String,
    /// Where the log begins.
    #[serde(default)]
    pub(super) first: Option<u64>,
}

#[derive(Deserialize)]
struct Raw {
    index: u64,
    term: u64,
    kind: String,
    operation: Option<RawOperation>,
    membership: Option<Value>,
}

#[derive(Deserialize)]
struct RawOperation {
    client: Option<u64>,
    seq: Option<u64>,
    op: String,
    #[serde(default)]
    outcome: Value,
}

#[derive(Deserialize)]
struct Progress {
    progress: u64,
}

impl Line {
    /// # Errors
    ///
    /// What is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("it tells a line that is no entry: {error}");
        if line.starts_with(b"{\"progress\"") {
            let mark: Progress = serde_json::from_slice(line).map_err(wrong)?;
            return Ok(Self::Progress(mark.progress));
        }
        if line.starts_with(b"{\"code\"") {
            return serde_json::from_slice(line).map(Self::End).map_err(wrong);
        }
        let raw: Raw = serde_json::from_slice(line).map_err(wrong)?;
        let what = match (raw.kind.as_str(), raw.operation, raw.membership) {
            ("nothing", ..) => What::Nothing,
            ("opens_session", ..) => What::OpensSession,
            ("membership", _, Some(membership)) => What::Membership(membership),
            ("operation", Some(RawOperation { client, seq, op, outcome }), _) => {
                let operation = data_encoding::BASE64
                    .decode(op.as_bytes())
                    .map_err(|error| format!("it tells an operation that is no base64: {error}"))?;
                // One of a later version is as good as none.
                let outcome = serde_json::from_value(outcome).ok();
                What::Operation { request: client.zip(seq), operation: operation.into(), outcome }
            }
            _ => What::Other(raw.kind),
        };
        // It was JSON, so it is text.
        let line = String::from_utf8_lossy(line).into_owned();
        Ok(Self::Entry(Entry { index: raw.index, term: raw.term, what, line }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_they_say_and_nothing_else_is_one() {
        let what = |line: &str| match Line::parse(line.as_bytes()).unwrap() {
            Line::Entry(entry) => {
                assert_eq!((entry.index, entry.term, entry.line.as_str()), (7, 2, line));
                entry.what
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(what(r#"{"index":7,"kind":"nothing","nothing":{},"term":2}"#), What::Nothing);
        let line = r#"{"index":7,"kind":"operation","operation":{"client":3,"op":"aGk=","seq":4,"time_us":1},"term":2}"#;
        assert_eq!(
            what(line),
            What::Operation { request: Some((3, 4)), operation: "hi".into(), outcome: None }
        );
        let line = r#"{"index":7,"kind":"operation","operation":{"client":null,"op":"","seq":null,"time_us":1},"term":2}"#;
        assert_eq!(what(line), What::Operation { request: None, operation: Bytes::new(), outcome: None });
        let outcome = |outcome: &str| {
            let line = format!(
                r#"{{"index":7,"kind":"operation","operation":{{"client":3,"op":"","outcome":{outcome},"seq":4,"time_us":1}},"term":2}}"#
            );
            match what(&line) {
                What::Operation { outcome, .. } => outcome,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(outcome("\"done\""), Some(Outcome::Done));
        assert_eq!(outcome(r#"{"conflict":{"mod_index":5}}"#), Some(Outcome::Conflict { mod_index: 5 }));
        assert_eq!(outcome(r#"{"invalid":{"why":"x"}}"#), Some(Outcome::Invalid { why: "x".to_owned() }));
        assert_eq!(outcome("\"repeated\""), Some(Outcome::Repeated));
        assert_eq!(outcome("\"session_expired\""), Some(Outcome::SessionExpired));
        assert_eq!(outcome("\"answer_forgotten\""), Some(Outcome::AnswerForgotten));
        assert_eq!((outcome("null"), outcome("\"of a later version\"")), (None, None));
        let line = r#"{"index":7,"kind":"membership","membership":{"a":1},"term":2}"#;
        assert_eq!(what(line), What::Membership(serde_json::json!({ "a": 1 })));
        assert_eq!(what(r#"{"index":7,"kind":"new","term":2}"#), What::Other("new".to_owned()));
        assert_eq!(Line::parse(b"{\"progress\":9}").unwrap(), Line::Progress(9));
        let end = Line::parse(br#"{"code":"compacted","first":5,"index":3,"message":"gone"}"#).unwrap();
        let expected = End { code: "compacted".to_owned(), message: "gone".to_owned(), first: Some(5) };
        assert_eq!(end, Line::End(expected));
        for bad in ["", "{}", "hello", "{\"progress\":-1}", "{\"code\":1}", "{\"index\":1}", "\u{0}"] {
            assert!(Line::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let bad = r#"{"index":7,"kind":"operation","operation":{"op":"%"},"term":2}"#;
        assert!(Line::parse(bad.as_bytes()).unwrap_err().contains("base64"));
    }
}

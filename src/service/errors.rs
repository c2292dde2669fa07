//! What is told when a request fails.

use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::json;

use super::{Body, Facts, json, snapshot};
use crate::consensus::session::Refusal;
use crate::consensus::{ProposeError, ReadError};

/// A request that failed: code for programs, message for people, and whether nothing was changed, for certain.
#[derive(Debug)]
pub(super) struct Error {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) definite: bool,
    /// Where the log begins, where it begins too late: then it is told where the snapshot is, too.
    pub(super) first: Option<u64>,
}

impl Error {
    /// The caller's mistake. Nothing was done.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", &message.into())
    }

    /// This node has not come so far.
    pub(super) fn behind(index: u64) -> Self {
        let message = format!("this node has not applied entry {index} yet: try again, or at another node");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "behind", &message)
    }

    pub(super) fn new(status: StatusCode, code: &'static str, message: &str) -> Self {
        Self { status, code, message: message.to_owned(), definite: true, first: None }
    }

    pub(super) fn response(&self, facts: &Facts) -> Response<Body> {
        let leader = facts.replica.status().leader.map(|(_, place)| place.node);
        let mut body = json!({
            "code": self.code,
            "message": self.message,
            "definite": self.definite,
            "leader": leader,
        });
        if let Some(first) = self.first {
            body["first"] = first.into();
            body["snapshot"] = snapshot::PATH.into();
        }
        let mut response = json::answer(self.status, &body);
        // The caller may still be sending something that nobody reads.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

impl From<ProposeError> for Error {
    fn from(error: ProposeError) -> Self {
        let (status, code) = match &error {
            ProposeError::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            ProposeError::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            ProposeError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            ProposeError::Refused(refusal) => return Self::from(*refusal),
            ProposeError::Unknown { .. } => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
            ProposeError::Stopped { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "stopped"),
        };
        Self { status, code, message: error.to_string(), definite: error.is_definite(), first: None }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::SessionExpired => "session_expired",
            Refusal::AnswerForgotten { .. } => "answer_forgotten",
        };
        Self { status: StatusCode::GONE, code, message: refusal.to_string(), definite: true, first: None }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        let (status, code) = match &error {
            ReadError::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            ReadError::Behind { .. } => (StatusCode::SERVICE_UNAVAILABLE, "behind"),
            ReadError::Stopped { .. } => (StatusCode::INTERNAL_SERVER_ERROR, "stopped"),
        };
        Self { status, code, message: error.to_string(), definite: true, first: None }
    }
}

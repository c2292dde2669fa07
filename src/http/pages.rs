//! Requests of web pages. A browser on this machine sends to loopback what any page asks it to: without certificates that would
//! be enough to change members, or write. It says of itself whose page it is, and which name led it here.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN};

const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Why a plaintext request is not answered, if a page of somebody else made it. On loopback it has to be called by address or
/// as `localhost`: any other name is one that somebody made lead here.
pub(super) fn of_a_page(headers: &HeaderMap, loopback: bool) -> Option<&'static str> {
    let host = headers.get(HOST).map(|host| host.as_bytes());
    if loopback && !host.is_none_or(is_of_this_machine) {
        return Some(
            "an API on loopback is called by its address, or as `localhost`: no other name is answered",
        );
    }
    let origin = headers.get(ORIGIN).map(|origin| origin.as_bytes());
    let is_own = |origin: &[u8]| origin.strip_prefix(b"http://").is_some_and(|of| Some(of) == host);
    // A page that loads something, as an image, names no origin; browsers say then whether it is of the same one. What a person
    // types into one is of none.
    let site = headers.get(SEC_FETCH_SITE).map(|site| site.as_bytes());
    let own =
        origin.is_none_or(is_own) && site.is_none_or(|site| [&b"same-origin"[..], b"none"].contains(&site));
    (!own).then_some("a web page of somewhere else made this request: it is not answered")
}

/// `localhost` or an IP address, with a port or without.
fn is_of_this_machine(host: &[u8]) -> bool {
    let Ok(host) = str::from_utf8(host) else { return false };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let name = match host.rsplit_once(':') {
        // The colons of an address without brackets are its own.
        Some((name, port)) if is_port(port) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn is_answered(host: Option<&'static str>, origin: Option<&'static str>, loopback: bool) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in [(HOST, host), (ORIGIN, origin)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_static(value));
            }
        }
        of_a_page(&headers, loopback).is_none()
    }

    #[test]
    fn on_loopback_it_is_called_by_address_or_as_localhost() {
        for host in
            ["127.0.0.1:7480", "localhost:7480", "LocalHost", "[::1]:7480", "[::1]", "127.0.0.1", "::1"]
        {
            assert!(is_answered(Some(host), None, true), "{host}");
        }
        assert!(is_answered(None, None, true), "no browser leaves it out");
        for host in
            ["evil.example:7480", "localhost.evil.example", "127.0.0.1.evil.example", "", ":7480", "[::1"]
        {
            assert!(!is_answered(Some(host), None, true), "{host}");
            assert!(is_answered(Some(host), None, false), "{host}: elsewhere machines have names");
        }
    }

    #[test]
    fn what_a_page_loads_is_answered_to_one_of_the_same_place_alone() {
        for (site, answered) in
            [("none", true), ("same-origin", true), ("same-site", false), ("cross-site", false), ("", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("127.0.0.1:7480"));
            headers.insert(SEC_FETCH_SITE, HeaderValue::from_static(site));
            assert_eq!(of_a_page(&headers, true).is_none(), answered, "{site}");
        }
    }

    #[test]
    fn what_a_page_asks_for_is_answered_to_its_own_place_alone() {
        for loopback in [true, false] {
            let host = Some("127.0.0.1:7480");
            assert!(is_answered(host, Some("http://127.0.0.1:7480"), loopback));
            let others =
                ["http://127.0.0.1:80", "https://127.0.0.1:7480", "https://evil.example", "null", ""];
            for origin in others {
                assert!(!is_answered(host, Some(origin), loopback), "{origin}");
            }
            assert!(!is_answered(None, Some("http://"), loopback));
        }
    }
}

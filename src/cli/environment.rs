//! Variables of the environment that say what a flag would say.

use std::ffi::OsString;

/// A variable; an empty one counts as none, for that is how many unset it.
///
/// They are read here and not by clap, which takes an empty variable for a value and shows a flag that a variable set as
/// if it were required.
pub(super) fn variable(name: &str) -> Option<String> {
    given(std::env::var_os(name))
}

/// What is no Unicode is kept readable: whoever checks the value then names it.
fn given(value: Option<OsString>) -> Option<String> {
    value.map(|value| value.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_none() {
        assert_eq!(given(None), None);
        assert_eq!(given(Some("".into())), None);
        assert_eq!(given(Some("eu-m1".into())).as_deref(), Some("eu-m1"));
    }
}

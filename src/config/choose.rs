//! Which node of the file a process is: asked for by id, or the only one that suits.

use std::fmt;
use std::path::PathBuf;

use trunkline_mesh::{NodeSpec, Roles};

use super::Config;
use super::reader::nearest;

/// What a command needs its node to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// To send.
    Origin,
    /// To receive.
    Member,
    /// To fan out.
    Proxy,
}

impl Role {
    /// The node has it.
    #[must_use]
    pub fn of(self, roles: Roles) -> bool {
        match self {
            Self::Origin => roles.origin,
            Self::Member => roles.member,
            Self::Proxy => roles.proxy,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Origin => "origin",
            Self::Member => "member",
            Self::Proxy => "proxy",
        })
    }
}

/// The roles of a node, after `has`.
pub(crate) fn held(roles: Roles) -> String {
    let several = u8::from(roles.origin) + u8::from(roles.member) + u8::from(roles.proxy) > 1;
    format!("the {} {roles}", if several { "roles" } else { "role" })
}

/// A command line and a file that do not agree on a node. Nothing was started; change one of the two.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// The file does not list the node that was asked for.
    #[error("{}: no node `{asked}` is listed: {remedy}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The id, escaped.
        asked: String,
        /// What to do.
        remedy: String,
    },
    /// The node has not the role.
    #[error(
        "{}:{line}: node `{node}` has {}, not {wanted}: add \"{wanted}\" to its roles, or name another \
         node with --node", path.display(), held(*roles)
    )]
    LacksRole {
        /// The file.
        path: PathBuf,
        /// The line of the node.
        line: usize,
        /// The node.
        node: String,
        /// Its roles.
        roles: Roles,
        /// The one that is needed.
        wanted: Role,
    },
    /// Nobody was asked for, and several suit.
    #[error(
        "{}: {count} nodes have the role {wanted}: say which one this process is with --node or TRUNKLINE_NODE \
         ({listed})", path.display()
    )]
    Several {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
        /// The role.
        wanted: Role,
        /// Some of them.
        listed: String,
    },
    /// Nobody was asked for, and nobody suits.
    #[error("{}: no node has the role {wanted}: add \"{wanted}\" to the roles of one", path.display())]
    Nobody {
        /// The file.
        path: PathBuf,
        /// The role.
        wanted: Role,
    },
}

/// Most ids an error lists.
const LISTED_MAX: usize = 12;

impl Config {
    /// A node by its id, whatever its roles.
    ///
    /// # Errors
    /// [`ChooseError::Unknown`].
    pub fn find(&self, asked: &str) -> Result<&NodeSpec, ChooseError> {
        self.topology.nodes().find(|node| node.id.as_str() == asked).ok_or_else(|| {
            let near = nearest(asked, self.topology.nodes().map(|node| node.id.as_str()));
            let remedy =
                near.map_or("add it to the file".to_owned(), |near| format!("did you mean `{near}`?"));
            let asked = asked.chars().take(64).flat_map(char::escape_default).collect();
            ChooseError::Unknown { path: self.path.clone(), asked, remedy }
        })
    }

    /// The node this process is: the one that is `asked` for by its id, which is to have the role; without an id the only one of the file
    /// that has it.
    ///
    /// # Errors
    /// [`ChooseError`] says what to ask for.
    pub fn choose(&self, asked: Option<&str>, wanted: Role) -> Result<&NodeSpec, ChooseError> {
        let path = || self.path.clone();
        if let Some(asked) = asked {
            let Some(node) = self.topology.nodes().find(|node| node.id.as_str() == asked) else {
                let remedy = self.suggest(asked, wanted);
                let asked = asked.chars().take(64).flat_map(char::escape_default).collect();
                return Err(ChooseError::Unknown { path: path(), asked, remedy });
            };
            if !wanted.of(node.roles) {
                let line = self.line(&node.id).unwrap_or_default();
                let (node, roles) = (node.id.to_string(), node.roles);
                return Err(ChooseError::LacksRole { path: path(), line, node, roles, wanted });
            }
            return Ok(node);
        }
        let suitable: Vec<&NodeSpec> = self.topology.nodes().filter(|node| wanted.of(node.roles)).collect();
        match suitable[..] {
            [node] => Ok(node),
            [] => Err(ChooseError::Nobody { path: path(), wanted }),
            _ => Err(ChooseError::Several {
                path: path(),
                count: suitable.len(),
                wanted,
                listed: listed(&suitable),
            }),
        }
    }

    fn suggest(&self, asked: &str, wanted: Role) -> String {
        match nearest(asked, self.topology.nodes().map(|node| node.id.as_str())) {
            Some(near) => format!("did you mean `{near}`?"),
            None => {
                let suitable: Vec<&NodeSpec> =
                    self.topology.nodes().filter(|node| wanted.of(node.roles)).collect();
                format!("nodes with the role {wanted}: {}", listed(&suitable))
            }
        }
    }
}

fn listed(nodes: &[&NodeSpec]) -> String {
    let mut names: Vec<&str> = nodes.iter().take(LISTED_MAX).map(|node| node.id.as_str()).collect();
    match nodes.len() {
        0 => names.push("none"),
        count if count > LISTED_MAX => names.push("…"),
        _ => {}
    }
    names.join(", ")
}

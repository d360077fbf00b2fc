//! Users by static bearer token, in the format of upstream's `--token-auth-file`: `token,user,uid[,"group1,group2"]`.
//!
//! Invariant: the file is read once, at start.

use std::collections::HashMap;
use std::path::Path;

use async_trait::async_trait;
use trireme_api::Status;

use super::{Authenticator, PeerCertificate, bearer_token, unauthorized};
use crate::user::UserInfo;

/// Tokens and their users.
#[derive(Clone, Debug, Default)]
pub struct TokenFile(HashMap<String, UserInfo>);

/// Why a token file was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("cannot read the token file: {0}")]
    Read(#[from] std::io::Error),
    /// A line has fewer than three columns.
    #[error("token file line {line}: expected at least token, user name and user uid, found {found} columns")]
    Columns {
        /// Line number from one.
        line: usize,
        /// How many columns it has.
        found: usize,
    },
}

impl TokenFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read or a line is not of the format.
    pub fn read(path: &Path) -> Result<Self, TokenFileError> {
        Self::parse(&std::fs::read_to_string(path)?)
    }

    /// Parses the text of a file; empty lines and lines with an empty token are skipped.
    ///
    /// # Errors
    /// When a line has fewer than three columns.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut users = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let columns = columns(line);
            let [token, name, uid, rest @ ..] = columns.as_slice() else {
                return Err(TokenFileError::Columns {
                    line: index + 1,
                    found: columns.len(),
                });
            };
            if token.is_empty() {
                continue;
            }
            let groups = rest
                .first()
                .map(|groups| groups.split(',').map(|group| group.trim().to_owned()).collect::<Vec<_>>())
                .unwrap_or_default();
            let user = UserInfo {
                name: name.clone(),
                uid: uid.clone(),
                groups: groups.into_iter().filter(|group| !group.is_empty()).collect(),
                ..UserInfo::default()
            };
            users.insert(token.clone(), user);
        }
        Ok(Self(users))
    }
}

/// The cells of a CSV line, quotes removed.
fn columns(line: &str) -> Vec<String> {
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cell.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell).trim().to_owned()),
            other => cell.push(other),
        }
    }
    cells.push(cell.trim().to_owned());
    cells
}

#[async_trait]
impl Authenticator for TokenFile {
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        _peer: Option<&PeerCertificate>,
    ) -> Result<Option<UserInfo>, Status> {
        match bearer_token(parts) {
            None => Ok(None),
            Some(token) => self.0.get(&token).cloned().map(Some).ok_or_else(unauthorized),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_users_and_short_lines_are_refused() {
        let file = TokenFile::parse("t1,admin,u1,\"system:masters,dev\"\n\nt2,alice,u2\n").unwrap();
        assert_eq!(file.0["t1"].groups, ["system:masters", "dev"]);
        assert_eq!(file.0["t2"].name, "alice");
        assert!(file.0["t2"].groups.is_empty());
        assert!(matches!(
            TokenFile::parse("a,b"),
            Err(TokenFileError::Columns { line: 1, found: 2 })
        ));
    }

    #[tokio::test]
    async fn a_known_token_is_a_user_and_an_unknown_one_an_error() {
        let file = TokenFile::parse("t1,admin,u1").unwrap();
        let parts = |header: Option<&str>| {
            let mut request = http::Request::builder();
            if let Some(header) = header {
                request = request.header("authorization", header);
            }
            request.body(()).unwrap().into_parts().0
        };
        assert_eq!(
            file.authenticate(&parts(Some("Bearer t1")), None)
                .await
                .unwrap()
                .unwrap()
                .name,
            "admin"
        );
        assert_eq!(
            file.authenticate(&parts(Some("Bearer zz")), None).await.unwrap_err().code,
            401
        );
        assert_eq!(file.authenticate(&parts(None), None).await.unwrap(), None);
    }
}

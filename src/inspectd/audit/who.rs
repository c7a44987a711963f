//! Who does something: user, and who became that user by sudo.
//!
//! Never here: asking a directory service; a user that only that knows is shown by number.

use serde::{Deserialize, Serialize};

/// Where users stand.
const PASSWD: &str = "/etc/passwd";

/// Who runs a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// User's number.
    pub uid: u32,
    /// User's name; empty where it is not known.
    pub user: String,
    /// Who became root by sudo, as sudo says. Not of one who became another user: that user could have set it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
}

impl Who {
    /// Who runs this process.
    pub fn me() -> Self {
        let uid = rustix::process::getuid().as_raw();
        let passwd = std::fs::read_to_string(PASSWD).unwrap_or_default();
        // Anybody may set a variable, and of root nothing better can be had.
        let sudo_user = (uid == 0).then(|| std::env::var("SUDO_USER").ok()).flatten();
        Self { uid, user: name_of(uid, &passwd).unwrap_or_default(), sudo_user }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.sudo_user, self.user.as_str()) {
            (Some(sudo), user) => write!(f, "{sudo} (as {user})"),
            (None, "") => write!(f, "user {}", self.uid),
            (None, user) => f.write_str(user),
        }
    }
}

fn name_of(uid: u32, passwd: &str) -> Option<String> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\ninspectd:x:998:997::/var/lib/inspectd:/usr/sbin/nologin\n";
        assert_eq!(name_of(998, passwd).as_deref(), Some("inspectd"));
        assert_eq!((name_of(5, passwd), name_of(0, "")), (None, None));
    }
}

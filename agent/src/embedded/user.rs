//! Who a container runs as: names and numbers resolved against the image's own `/etc/passwd` and `/etc/group`.

use crate::runtime::{GroupsPolicy, SecurityContext};

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// User id.
    pub(super) uid: u32,
    /// Primary group.
    pub(super) gid: u32,
    /// Further groups, sorted.
    pub(super) groups: Vec<u32>,
    /// Home directory.
    pub(super) home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        Some(Account { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

/// Name, id and members.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, members, ..] = fields[..] else { return None };
        Some((name, gid.parse().ok()?, members))
    })
}

/// Resolves the user of a container.
///
/// # Errors
/// The name that the image does not have, or a number out of range.
pub(super) fn resolve(image_user: &str, security: &SecurityContext, passwd: &str, group: &str) -> Result<User, String> {
    let number = |n: i64, what: &str| u32::try_from(n).map_err(|_| format!("{what} {n} is out of range"));
    let (name, group_name) = image_user.split_once(':').unwrap_or((image_user, ""));
    let (account, uid) = match security.uid {
        Some(uid) => {
            let uid = number(uid, "user id")?;
            (accounts(passwd).find(|a| a.uid == uid), uid)
        }
        None if name.is_empty() => (accounts(passwd).find(|a| a.uid == 0), 0),
        None => match (accounts(passwd).find(|a| a.name == name), name.parse::<u32>()) {
            (Some(account), _) => {
                let uid = account.uid;
                (Some(account), uid)
            }
            (None, Ok(uid)) => (accounts(passwd).find(|a| a.uid == uid), uid),
            (None, Err(_)) => return Err(format!("unable to find user {name}: no matching entries in passwd file")),
        },
    };
    let gid = match security.gid {
        Some(gid) => number(gid, "group id")?,
        // The image's group belongs to the image's user.
        None if !group_name.is_empty() && security.uid.is_none() => match groups(group).find(|(n, _, _)| *n == group_name) {
            Some((_, gid, _)) => gid,
            None => {
                let words = |_| format!("unable to find group {group_name}: no matching entries in group file");
                group_name.parse::<u32>().map_err(words)?
            }
        },
        None => account.as_ref().map_or(0, |a| a.gid),
    };
    let mut all: Vec<u32> = Vec::new();
    for gid in &security.supplemental_groups {
        all.push(number(*gid, "supplemental group")?);
    }
    if let (GroupsPolicy::Merge, Some(account)) = (security.groups_policy, &account) {
        let member = |members: &str| members.split(',').any(|m| m == account.name);
        all.extend(groups(group).filter(|(_, _, members)| member(members)).map(|(_, gid, _)| gid));
    }
    // The primary group is among them, as containerd has it.
    all.push(gid);
    all.sort_unstable();
    all.dedup();
    let home = account.map_or("/", |a| if a.home.is_empty() { "/" } else { a.home }).to_owned();
    Ok(User { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\nbroken line\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nmail:x:8:web,other\nlogs:x:9:root\n";

    fn of(image: &str, security: &SecurityContext) -> (u32, u32, Vec<u32>, String) {
        let user = resolve(image, security, PASSWD, GROUP).unwrap();
        (user.uid, user.gid, user.groups, user.home)
    }

    #[test]
    fn names_and_numbers_find_the_same_account() {
        let plain = SecurityContext::default();
        let web = (33, 34, vec![8, 34], "/var/www".to_owned());
        assert_eq!(of("web", &plain), web);
        assert_eq!(of("33", &plain), web);
        assert_eq!(of("web:root", &plain), (33, 0, vec![0, 8], "/var/www".to_owned()));
        assert_eq!(of("", &plain), (0, 0, vec![0, 9], "/root".to_owned()));
        assert_eq!(of("1000", &plain), (1000, 0, vec![0], "/".to_owned()));
    }

    #[test]
    fn the_pod_overrides_the_image() {
        let pod = SecurityContext { uid: Some(1000), supplemental_groups: vec![2000], ..SecurityContext::default() };
        assert_eq!(of("web:www", &pod), (1000, 0, vec![0, 2000], "/".to_owned()));
        let strict = SecurityContext { uid: Some(33), gid: Some(5), groups_policy: GroupsPolicy::Strict, ..SecurityContext::default() };
        assert_eq!(of("", &strict), (33, 5, vec![5], "/var/www".to_owned()));
    }

    #[test]
    fn a_name_that_is_not_there_is_an_error() {
        let error = resolve("nobody", &SecurityContext::default(), PASSWD, GROUP).unwrap_err();
        assert_eq!(error, "unable to find user nobody: no matching entries in passwd file");
    }
}

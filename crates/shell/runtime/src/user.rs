//! Who a container's process is: numbers from the image's `/etc/passwd` and `/etc/group`. Pure over the files' text.

/// A resolved identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Further groups, without duplicates.
    pub(crate) groups: Vec<u32>,
    /// Home directory, if the user is listed.
    pub(crate) home: Option<String>,
}

/// What was asked for.
pub(crate) struct Wanted<'a> {
    /// `user`, `uid`, `user:group`, `uid:gid` of the image.
    pub(crate) image: &'a str,
    pub(crate) run_as_user: Option<i64>,
    pub(crate) run_as_group: Option<i64>,
    pub(crate) supplemental_groups: &'a [i64],
    /// The image's groups of the user are not added.
    pub(crate) strict: bool,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(line: &str) -> Option<Passwd<'_>> {
    let fields: Vec<&str> = line.split(':').collect();
    match fields[..] {
        [name, _, uid, gid, _, home, ..] => Some(Passwd {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        }),
        _ => None,
    }
}

/// Name, number, members.
fn group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.split(':');
    let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next().unwrap_or(""));
    Some((name, gid.parse().ok()?, members))
}

/// Resolves; the error text is for users.
pub(crate) fn resolve(wanted: &Wanted<'_>, passwd_text: &str, group_text: &str) -> Result<Identity, String> {
    let (user, image_group) = match wanted.image.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted.image, None),
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| format!("id {value} is out of range"));
    let (user, image_group) = match wanted.run_as_user {
        Some(uid) => (number(uid)?.to_string(), None),
        None if user.is_empty() => ("0".to_owned(), image_group),
        None => (user.to_owned(), image_group),
    };
    let numeric: Option<u32> = user.parse().ok();
    let mut users = passwd_text.lines().filter_map(passwd);
    let entry = users.find(|entry| entry.name == user || Some(entry.uid) == numeric);
    let uid = match (&entry, numeric) {
        (_, Some(uid)) => uid,
        (Some(entry), None) => entry.uid,
        (None, None) => return Err(format!("unable to find user {user}: no matching entries in passwd file")),
    };
    let gid = match (wanted.run_as_group, image_group) {
        (Some(gid), _) => number(gid)?,
        (None, Some(name)) if !name.is_empty() => match name.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let found = group_text.lines().filter_map(group).find(|(other, _, _)| *other == name);
                found
                    .map(|(_, gid, _)| gid)
                    .ok_or_else(|| format!("unable to find group {name}: no matching entries in group file"))?
            }
        },
        _ => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let mut groups = vec![gid];
    if let Some(entry) = entry.as_ref().filter(|_| !wanted.strict) {
        let member = |members: &str| members.split(',').any(|member| member == entry.name);
        groups.extend(
            group_text
                .lines()
                .filter_map(group)
                .filter(|(_, _, members)| member(members))
                .map(|(_, gid, _)| gid),
        );
    }
    for gid in wanted.supplemental_groups {
        groups.push(number(*gid)?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity {
        uid,
        gid,
        groups,
        home: entry.map(|entry| entry.home.to_owned()).filter(|home| !home.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_resolved() {
        let users = "root:x:0:0:root:/root:/bin/sh\napp:x:101:102::/srv/app:/bin/false\n";
        let groups = "root:x:0:\nweb:x:33:app,other\napp:x:102:\n";
        type Case<'a> = (
            &'a str,
            Option<i64>,
            Option<i64>,
            &'a [i64],
            Result<(u32, u32, &'a [u32]), &'a str>,
        );
        let cases: [Case<'_>; 9] = [
            ("", None, None, &[], Ok((0, 0, &[0]))),
            ("app", None, None, &[], Ok((101, 102, &[33, 102]))),
            ("101", None, None, &[], Ok((101, 102, &[33, 102]))),
            ("app:web", None, None, &[], Ok((101, 33, &[33]))),
            ("7:8", None, None, &[], Ok((7, 8, &[8]))),
            ("app", Some(1000), None, &[2000], Ok((1000, 0, &[0, 2000]))),
            ("app", Some(1000), Some(3000), &[], Ok((1000, 3000, &[3000]))),
            (
                "nobody",
                None,
                None,
                &[],
                Err("unable to find user nobody: no matching entries in passwd file"),
            ),
            (
                "app:none",
                None,
                None,
                &[],
                Err("unable to find group none: no matching entries in group file"),
            ),
        ];
        for (image, run_as_user, run_as_group, supplemental_groups, expected) in cases {
            let wanted = Wanted {
                image,
                run_as_user,
                run_as_group,
                supplemental_groups,
                strict: false,
            };
            let identity = resolve(&wanted, users, groups).map(|identity| (identity.uid, identity.gid, identity.groups));
            let expected = expected
                .map(|(uid, gid, groups)| (uid, gid, groups.to_vec()))
                .map_err(str::to_owned);
            assert_eq!(identity, expected, "{image}");
        }
        let wanted = Wanted {
            image: "app",
            run_as_user: None,
            run_as_group: None,
            supplemental_groups: &[2000],
            strict: true,
        };
        let identity = resolve(&wanted, users, groups).unwrap();
        assert_eq!(
            (identity.uid, identity.groups),
            (101, vec![102, 2000]),
            "no group of the image"
        );
    }
}

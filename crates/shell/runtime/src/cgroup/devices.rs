//! Which devices a container may use: the `devices` controller of v1, or a device program on v2. What no rule allows is
//! denied.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;

use super::{Hierarchies, named};
use crate::sys;

/// One allowed kind of device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceRule {
    /// `c`, `b` or `a` for both.
    pub(crate) kind: char,
    /// `None` for any.
    pub(crate) major: Option<u32>,
    /// `None` for any.
    pub(crate) minor: Option<u32>,
    /// Of `rwm`.
    pub(crate) access: &'static str,
}

impl DeviceRule {
    /// A rule for one device with full access.
    pub(crate) fn exact(kind: char, major: u32, minor: u32) -> Self {
        DeviceRule {
            kind,
            major: Some(major),
            minor: Some(minor),
            access: "rwm",
        }
    }

    /// What every container may use: the standard devices, terminals, and making (not opening) any node.
    pub(crate) fn defaults() -> Vec<Self> {
        let mut rules = vec![
            DeviceRule {
                kind: 'c',
                major: None,
                minor: None,
                access: "m",
            },
            DeviceRule {
                kind: 'b',
                major: None,
                minor: None,
                access: "m",
            },
            DeviceRule {
                kind: 'c',
                major: Some(136),
                minor: None,
                access: "rwm",
            },
        ];
        let standard = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
        rules.extend(standard.map(|(major, minor)| DeviceRule::exact('c', major, minor)));
        rules
    }

    /// Everything.
    pub(crate) fn all() -> Vec<Self> {
        vec![DeviceRule {
            kind: 'a',
            major: None,
            minor: None,
            access: "rwm",
        }]
    }

    fn v1(&self) -> String {
        if self.kind == 'a' {
            return "a".to_owned();
        }
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

const TYPE_BLOCK: i32 = 1;
const TYPE_CHARACTER: i32 = 2;

/// One BPF instruction.
fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(destination) << 8
        | u64::from(source) << 12
        | u64::from(offset as u16) << 16
        | u64::from(immediate as u32) << 32
}

/// A device program: the first rule that covers type, access and numbers allows.
fn program(rules: &[DeviceRule]) -> Vec<u64> {
    const LOAD_WORD: u8 = 0x61;
    const MOVE: u8 = 0xb7;
    const MOVE_REGISTER: u8 = 0xbf;
    const AND: u8 = 0x57;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_NOT_EQUAL: u8 = 0x55;
    const EXIT: u8 = 0x95;
    // r2: type, r3: access wanted, r4: major, r5: minor.
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut tests: Vec<(u8, i32)> = Vec::new();
        match rule.kind {
            'c' => tests.push((2, TYPE_CHARACTER)),
            'b' => tests.push((2, TYPE_BLOCK)),
            _ => {}
        }
        tests.extend(rule.major.map(|major| (4, major as i32)));
        tests.extend(rule.minor.map(|minor| (5, minor as i32)));
        let bit = |letter, bit| if rule.access.contains(letter) { bit } else { 0 };
        let refused = 7 & !(bit('m', 1) | bit('r', 2) | bit('w', 4));
        // What is wanted beyond the rule must be nothing.
        let mut block = vec![instruction(MOVE_REGISTER, 6, 3, 0, 0), instruction(AND, 6, 0, 0, refused)];
        tests.insert(0, (6, 0));
        let after = tests.len() as i16 + 1;
        for (index, (register, value)) in tests.iter().enumerate() {
            block.push(instruction(JUMP_NOT_EQUAL, *register, 0, after - index as i16, *value));
        }
        block.extend([instruction(MOVE, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
        code.extend(block);
    }
    code.extend([instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    code
}

impl Hierarchies {
    /// Lets processes in `path` use only what `rules` allow.
    pub(crate) fn allow_devices(&self, path: &str, rules: &[DeviceRule]) -> io::Result<()> {
        let Some((directory, v2)) = self.controller("devices", path) else {
            return Ok(());
        };
        if v2 {
            if rules == DeviceRule::all() {
                return Ok(());
            }
            return sys::attach_device_program(File::open(&directory)?.as_fd(), &program(rules))
                .map_err(|error| named(&directory, error));
        }
        let write =
            |file: &str, value: &str| fs::write(directory.join(file), value).map_err(|error| named(&directory.join(file), error));
        if rules != DeviceRule::all() {
            write("devices.deny", "a")?;
        }
        rules.iter().try_for_each(|rule| write("devices.allow", &rule.v1()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_program() {
        let Some(root) = fs::read_to_string("/proc/self/mounts").unwrap().lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| std::path::PathBuf::from(fields[1]))
        }) else {
            return;
        };
        let directory = root.join(format!("trireme-test-devices-{}", std::process::id()));
        fs::create_dir(&directory).expect("making a cgroup needs root");
        let result = sys::attach_device_program(File::open(&directory).unwrap().as_fd(), &program(&DeviceRule::defaults()));
        // The rules hold: in a child in that group, null opens and a disk of a name that nobody has does not.
        let probe = || -> io::Result<String> {
            let script = format!(
                "echo $$ > {0}/cgroup.procs; d=$(mktemp -d); mknod $d/b b 7 200; : > /dev/null && printf ok; \
                 dd if=$d/b of=/dev/null count=1 2>&1 | grep -o 'Operation not permitted'; rm -r $d",
                directory.display()
            );
            let output = std::process::Command::new("sh").arg("-c").arg(script).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let text = probe();
        fs::remove_dir(&directory).unwrap();
        result.unwrap();
        assert_eq!(text.unwrap(), "okOperation not permitted\n");
    }
}

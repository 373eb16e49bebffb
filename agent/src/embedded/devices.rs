//! Which devices a container may open. On cgroup v1 the devices controller takes rules; on v2 it is a small BPF program on the container's
//! cgroup, built here.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use serde_json::{Value, json};

use super::sys;

/// Making nodes; reading; writing: the kernel's bits.
const MAKE: i32 = 1;
const ALL: i32 = 7;
const CHARACTER: i32 = 2;

/// Character devices that every container may use: null, zero, full, random, urandom, tty, console, ptmx, terminals.
const OPEN: [(i32, Option<i32>); 9] =
    [(1, Some(3)), (1, Some(5)), (1, Some(7)), (1, Some(8)), (1, Some(9)), (5, Some(0)), (5, Some(1)), (5, Some(2)), (136, None)];

/// The rules as the OCI specification has them.
pub(super) fn rules(privileged: bool) -> Value {
    if privileged {
        return json!([{"allow": true, "access": "rwm"}]);
    }
    let mut rules = vec![
        json!({"allow": false, "access": "rwm"}),
        json!({"allow": true, "type": "c", "access": "m"}),
        json!({"allow": true, "type": "b", "access": "m"}),
    ];
    for (major, minor) in OPEN {
        let mut rule = json!({"allow": true, "type": "c", "major": major, "access": "rwm"});
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rules.push(rule);
    }
    Value::Array(rules)
}

/// One BPF instruction, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb7;
const UNLESS_EQUAL: u8 = 0x56;
const EXIT: u8 = 0x95;
/// Registers: the argument, type of the device, what is asked for, numbers, scratch.
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    // Destination in the low half of the byte on little-endian machines, which are the only ones built for.
    Instruction { code, registers: (from << 4) | to, offset, immediate }
}

/// The same rules as a program of type `BPF_PROG_TYPE_CGROUP_DEVICE`: returns 1 to allow.
fn program() -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, ACCESS, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    // Making nodes of any kind.
    allow(&mut program, None, MAKE, None, None);
    for (major, minor) in OPEN {
        allow(&mut program, Some(CHARACTER), ALL, Some(major), minor);
    }
    program.extend([instruction(SET, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// Appends a rule: all its conditions hold, or the next rule is tried.
fn allow(program: &mut Vec<Instruction>, kind: Option<i32>, access: i32, major: Option<i32>, minor: Option<i32>) {
    let mut conditions = Vec::new();
    for (register, value) in [(KIND, kind), (MAJOR, major), (MINOR, minor)] {
        if let Some(value) = value {
            conditions.push((register, value));
        }
    }
    // Nothing may be asked for that the rule does not give.
    program.push(instruction(MOVE, SCRATCH, ACCESS, 0, 0));
    program.push(instruction(AND, SCRATCH, 0, 0, !access & 0xffff));
    conditions.insert(0, (SCRATCH, 0));
    let count = conditions.len();
    for (i, (register, value)) in conditions.into_iter().enumerate() {
        // Past the conditions that are left and the two instructions that end the rule.
        let skip = i16::try_from(count - i - 1 + 2).unwrap_or(i16::MAX);
        program.push(instruction(UNLESS_EQUAL, register, 0, skip, value));
    }
    program.extend([instruction(SET, 0, 0, 0, 1), instruction(EXIT, 0, 0, 0, 0)]);
}

/// Loads the program, to be attached with [`sys::attach_device_program`].
///
/// # Errors
/// When the kernel has no such programs or this process may not load them.
pub(super) fn load() -> io::Result<OwnedFd> {
    sys::load_device_program(&program())
}

/// Confines a cgroup of version 2 to these devices.
///
/// # Errors
/// What the kernel refused.
pub(super) fn confine(program: &OwnedFd, cgroup: &Path) -> io::Result<()> {
    sys::attach_device_program(&std::fs::File::open(cgroup)?, program)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn every_rule_skips_to_the_next_one() {
        let program = program();
        for (at, instruction) in program.iter().enumerate().filter(|(_, i)| i.code == UNLESS_EQUAL) {
            let to = at + 1 + usize::try_from(instruction.offset).unwrap();
            assert_eq!(program[to - 1].code, EXIT, "the instruction before the target ends a rule");
        }
        assert_eq!(program.last().unwrap().code, EXIT);
    }

    #[test]
    fn the_kernel_takes_the_program_and_lets_only_harmless_devices_be_opened() {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(root) = roots.into_iter().find(|root| root.join("cgroup.procs").exists()) else {
            return eprintln!("skipped: cgroup v2 is not mounted");
        };
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: BPF programs need root");
        }
        let cgroup = root.join(format!("coracle-devices-{}", std::process::id()));
        std::fs::create_dir(&cgroup).unwrap();
        confine(&load().unwrap(), &cgroup).unwrap();
        let script =
            format!("echo $$ > {}/cgroup.procs; echo x > /dev/null && echo null; true < /dev/kmsg && echo kmsg; true", cgroup.display());
        let out = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        std::fs::remove_dir(&cgroup).unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "null\n");
        assert!(String::from_utf8_lossy(&out.stderr).contains("Operation not permitted"));
    }
}

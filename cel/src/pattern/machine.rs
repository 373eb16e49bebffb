//! A machine that follows all ways through a pattern at once, character by character (Pike's; as Go's `regexp/exec.go`). Slower than what the
//! `regex` crate does, but a class is one instruction however many characters it holds, and every step counts.

use std::{cmp::Ordering, mem::swap, ops::Range};

use regex_syntax::hir::{Class, Hir, HirKind, Look};

/// Instructions of a program, at most: 8 MiB.
const MAX_PROGRAM: usize = 512 << 10;
/// Steps of a match, at most: less than a second.
pub(super) const MAX_STEPS: usize = 64 << 20;

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Machine {
    program: Vec<Step>,
    /// The characters of classes, as ranges in order.
    classes: Vec<Box<[(char, char)]>>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// One character, and then the next step.
    Char(char),
    /// One character of a class, and then the next step.
    Class(u32),
    /// A place, and then the next step.
    Look(Place),
    /// On there.
    Jump(u32),
    /// On at either, rather the first.
    Either(u32, u32),
    Found,
}

/// What Go knows of places.
#[derive(Clone, Copy, Debug)]
enum Place {
    Start,
    End,
    LineStart,
    LineEnd,
    Boundary,
    NoBoundary,
}

impl Machine {
    /// `None` if the program would be too large.
    pub(super) fn new(pattern: &Hir) -> Option<Self> {
        let mut made = Self { program: Vec::new(), classes: Vec::new() };
        made.compile(pattern)?;
        made.push(Step::Found)?;
        Some(made)
    }

    fn push(&mut self, step: Step) -> Option<usize> {
        if self.program.len() == MAX_PROGRAM {
            return None;
        }
        self.program.push(step);
        Some(self.program.len() - 1)
    }

    /// The step that comes next.
    fn here(&self) -> u32 {
        u32::try_from(self.program.len()).unwrap_or(u32::MAX)
    }

    fn compile(&mut self, pattern: &Hir) -> Option<()> {
        match pattern.kind() {
            HirKind::Empty => {}
            HirKind::Literal(text) => {
                for c in std::str::from_utf8(&text.0).ok()?.chars() {
                    self.push(Step::Char(c))?;
                }
            }
            HirKind::Class(class) => {
                let class = self.class(class)?;
                self.push(Step::Class(class))?;
            }
            HirKind::Look(look) => {
                self.push(Step::Look(place(*look)?))?;
            }
            HirKind::Repetition(repetition) => {
                let class = match repetition.sub.kind() {
                    HirKind::Class(class) => Some(self.class(class)?),
                    _ => None,
                };
                self.repetition(&repetition.sub, class, (repetition.min, repetition.max), repetition.greedy)?;
            }
            HirKind::Capture(group) => self.compile(&group.sub)?,
            HirKind::Concat(parts) => parts.iter().try_for_each(|part| self.compile(part))?,
            HirKind::Alternation(ways) => self.alternation(ways)?,
        }
        Some(())
    }

    /// The number of a class.
    fn class(&mut self, class: &Class) -> Option<u32> {
        let ranges: Box<[(char, char)]> = match class {
            Class::Unicode(class) => class.ranges().iter().map(|range| (range.start(), range.end())).collect(),
            Class::Bytes(class) if class.is_ascii() => {
                class.ranges().iter().map(|range| (char::from(range.start()), char::from(range.end()))).collect()
            }
            Class::Bytes(_) => return None,
        };
        // The same class often stands in a pattern more than once.
        let known = self.classes.iter().rev().take(8).position(|known| *known == ranges);
        let at = known.map_or(self.classes.len(), |back| self.classes.len() - 1 - back);
        if known.is_none() {
            self.classes.push(ranges);
        }
        u32::try_from(at).ok()
    }

    /// What is repeated: a class whose number is known, or anything.
    fn once(&mut self, sub: &Hir, class: Option<u32>) -> Option<()> {
        match class {
            Some(class) => self.push(Step::Class(class)).map(drop),
            None => self.compile(sub),
        }
    }

    fn repetition(&mut self, sub: &Hir, class: Option<u32>, (least, most): (u32, Option<u32>), greedy: bool) -> Option<()> {
        for _ in 0..least {
            self.once(sub, class)?;
        }
        let either = |on: u32, out: u32| if greedy { Step::Either(on, out) } else { Step::Either(out, on) };
        let Some(most) = most else {
            let choice = self.push(Step::Found)?;
            let on = self.here();
            self.once(sub, class)?;
            self.push(Step::Jump(u32::try_from(choice).ok()?))?;
            self.program[choice] = either(on, self.here());
            return Some(());
        };
        let mut choices = Vec::new();
        for _ in least..most {
            choices.push(self.push(Step::Found)?);
            self.once(sub, class)?;
        }
        let out = self.here();
        for choice in choices {
            self.program[choice] = either(u32::try_from(choice + 1).ok()?, out);
        }
        Some(())
    }

    fn alternation(&mut self, ways: &[Hir]) -> Option<()> {
        let mut ends = Vec::new();
        for (at, way) in ways.iter().enumerate() {
            if at + 1 == ways.len() {
                self.compile(way)?;
                break;
            }
            let choice = self.push(Step::Found)?;
            self.compile(way)?;
            ends.push(self.push(Step::Found)?);
            self.program[choice] = Step::Either(u32::try_from(choice + 1).ok()?, self.here());
        }
        let out = self.here();
        for end in ends {
            self.program[end] = Step::Jump(out);
        }
        Some(())
    }

    /// The first match that begins at `start` or later; with `any`, whichever is found first. Fails when it takes more than so many steps.
    pub(super) fn find(&self, text: &str, start: usize, any: bool, steps: usize) -> Result<Option<Range<usize>>, Box<str>> {
        let mut run = Run { machine: self, text, most: steps, left: steps, stack: Vec::new() };
        let (mut now, mut next) = (Ways::new(self.program.len()), Ways::new(self.program.len()));
        let mut found = None;
        let mut at = start;
        loop {
            let c = text[at..].chars().next();
            if found.is_none() {
                run.follow(&mut now, 0, at, at)?;
            }
            for thread in 0..now.order.len() {
                let (step, began) = now.order[thread];
                let goes_on = match self.program[step as usize] {
                    Step::Char(wanted) => c == Some(wanted),
                    Step::Class(class) => c.is_some_and(|c| self.holds(class, c)),
                    Step::Found => {
                        found = Some(began..at);
                        if any {
                            return Ok(found);
                        }
                        // What comes later is liked less.
                        break;
                    }
                    _ => false,
                };
                if goes_on {
                    run.follow(&mut next, step + 1, at + c.map_or(0, char::len_utf8), began)?;
                }
            }
            let Some(c) = c else { return Ok(found) };
            if next.order.is_empty() && found.is_some() {
                return Ok(found);
            }
            at += c.len_utf8();
            swap(&mut now, &mut next);
            next.clear();
        }
    }

    fn holds(&self, class: u32, c: char) -> bool {
        let within = |(low, high): &(char, char)| match (c < *low, c > *high) {
            (true, _) => Ordering::Greater,
            (_, true) => Ordering::Less,
            _ => Ordering::Equal,
        };
        self.classes[class as usize].binary_search_by(within).is_ok()
    }
}

/// The steps that are waiting for a character, the preferred first, each with the place where its match began.
struct Ways {
    order: Vec<(u32, usize)>,
    /// All steps that were reached, these and those passed through.
    reached: Vec<u32>,
    /// For each step its number in `reached`, if it is there.
    places: Vec<u32>,
}

impl Ways {
    fn new(program: usize) -> Self {
        Self { order: Vec::new(), reached: Vec::new(), places: vec![0; program] }
    }

    /// Notes that a step was reached; whether for the first time.
    fn reach(&mut self, step: u32) -> bool {
        let place = self.places[step as usize] as usize;
        if self.reached.get(place) == Some(&step) {
            return false;
        }
        self.places[step as usize] = u32::try_from(self.reached.len()).unwrap_or(u32::MAX);
        self.reached.push(step);
        true
    }

    fn clear(&mut self) {
        self.order.clear();
        self.reached.clear();
    }
}

/// One match.
struct Run<'r> {
    machine: &'r Machine,
    text: &'r str,
    /// Steps that are allowed, and those of them that are left.
    most: usize,
    left: usize,
    stack: Vec<u32>,
}

impl Run<'_> {
    /// Goes on from a step to those that wait for a character, at this place.
    fn follow(&mut self, ways: &mut Ways, step: u32, at: usize, began: usize) -> Result<(), Box<str>> {
        self.stack.push(step);
        while let Some(step) = self.stack.pop() {
            self.left = self.left.checked_sub(1).ok_or_else(|| self.too_long())?;
            if !ways.reach(step) {
                continue;
            }
            match self.machine.program[step as usize] {
                Step::Jump(to) => self.stack.push(to),
                Step::Either(first, second) => self.stack.extend([second, first]),
                Step::Look(place) if is_at(place, self.text, at) => self.stack.push(step + 1),
                Step::Look(_) => {}
                Step::Char(_) | Step::Class(_) | Step::Found => ways.order.push((step, began)),
            }
        }
        Ok(())
    }

    fn too_long(&self) -> Box<str> {
        format!("the regular expression takes more than {} steps with a text of {} bytes", self.most, self.text.len()).into()
    }
}

/// `None` for places Go does not know.
fn place(look: Look) -> Option<Place> {
    Some(match look {
        Look::Start => Place::Start,
        Look::End => Place::End,
        Look::StartLF => Place::LineStart,
        Look::EndLF => Place::LineEnd,
        Look::WordAscii => Place::Boundary,
        Look::WordAsciiNegate => Place::NoBoundary,
        _ => return None,
    })
}

fn is_at(place: Place, text: &str, at: usize) -> bool {
    let (before, after) = (text[..at].chars().next_back(), text[at..].chars().next());
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    match place {
        Place::Start => before.is_none(),
        Place::End => after.is_none(),
        Place::LineStart => matches!(before, None | Some('\n')),
        Place::LineEnd => matches!(after, None | Some('\n')),
        Place::Boundary => is_word(before) != is_word(after),
        Place::NoBoundary => is_word(before) == is_word(after),
    }
}

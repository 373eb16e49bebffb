//! The members of an object, by name.

use std::{cmp::Ordering, collections::BTreeMap, collections::btree_map, fmt, hash, mem, slice, vec};

use crate::{Text, Value};

/// Up to as many members lie in one sorted piece of memory. More are a tree of nodes, so that nobody makes a server move megabytes
/// for each member that is added to a large map.
const FEW: usize = 64;
/// Up to as many are looked at one after the other.
const ONE_BY_ONE: usize = 16;

/// The members of an object, in the order of their names.
#[derive(Clone)]
pub struct Map(Members);

#[derive(Clone)]
enum Members {
    /// Sorted by name, each name once.
    Few(Vec<Member>),
    Many(BTreeMap<Text, Value>),
}
use Members::{Few, Many};

/// A member beside the first letters of its name, by which it is mostly told from others.
#[derive(Clone)]
pub(crate) struct Member {
    head: u64,
    name: Text,
    value: Value,
}

impl Member {
    pub(crate) fn new(name: Text, value: Value) -> Self {
        Self { head: head(&name), name, value }
    }

    fn cmp(&self, head: u64, name: &str) -> Ordering {
        self.head.cmp(&head).then_with(|| self.name.as_str().cmp(name))
    }
}

/// Up to eight letters, in such an order that heads compare as names do as long as they differ.
#[inline]
fn head(name: &str) -> u64 {
    let bytes = name.as_bytes();
    match (bytes.first_chunk(), bytes.first_chunk(), bytes.last_chunk()) {
        (Some(eight), ..) => u64::from_be_bytes(*eight),
        (None, Some(first), Some(last)) => {
            u64::from(u32::from_be_bytes(*first)) << 32 | u64::from(u32::from_be_bytes(*last)) << (8 * (8 - bytes.len()))
        }
        _ => bytes.iter().rev().fold(0, |head, letter| head >> 8 | u64::from(*letter) << 56),
    }
}

impl Default for Map {
    fn default() -> Self {
        Self::new()
    }
}

impl Map {
    #[must_use]
    #[inline]
    pub const fn new() -> Self {
        Self(Few(Vec::new()))
    }

    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0 {
            Few(members) => members.len(),
            Many(members) => members.len(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn clear(&mut self) {
        *self = Self::new();
    }

    #[must_use]
    #[inline]
    pub fn get(&self, name: &str) -> Option<&Value> {
        match &self.0 {
            Few(members) => Some(&members[position(members, name)?].value),
            Many(members) => members.get(name),
        }
    }

    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        match &mut self.0 {
            Few(members) => {
                let at = position(members, name)?;
                Some(&mut members[at].value)
            }
            Many(members) => members.get_mut(name),
        }
    }

    #[must_use]
    #[inline]
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a member; what it was before is returned.
    pub fn insert(&mut self, name: impl Into<Text>, value: Value) -> Option<Value> {
        match self.entry(name) {
            Entry::Occupied(mut there) => Some(there.insert(value)),
            Entry::Vacant(place) => {
                place.insert(value);
                None
            }
        }
    }

    pub fn remove(&mut self, name: &str) -> Option<Value> {
        match &mut self.0 {
            Few(members) => position(members, name).map(|at| members.remove(at).value),
            Many(members) => members.remove(name),
        }
    }

    pub fn retain(&mut self, mut keep: impl FnMut(&Text, &mut Value) -> bool) {
        match &mut self.0 {
            Few(members) => members.retain_mut(|member| keep(&member.name, &mut member.value)),
            Many(members) => members.retain(keep),
        }
    }

    /// The place of a member, whether or not it is there.
    pub fn entry(&mut self, name: impl Into<Text>) -> Entry<'_> {
        let name = name.into();
        if let Few(members) = &mut self.0
            && members.len() >= FEW
        {
            self.0 = Many(mem::take(members).into_iter().map(taken).collect());
        }
        match &mut self.0 {
            Few(members) => match place(members, head(&name), &name) {
                Ok(at) => Entry::Occupied(Occupied(At::Few(members, at))),
                Err(at) => Entry::Vacant(Vacant(Free::Few(members, at, name))),
            },
            Many(members) => match members.entry(name) {
                btree_map::Entry::Occupied(there) => Entry::Occupied(Occupied(At::Many(there))),
                btree_map::Entry::Vacant(place) => Entry::Vacant(Vacant(Free::Many(place))),
            },
        }
    }

    #[must_use]
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        Iter(match &self.0 {
            Few(members) => Either::Few(members.iter()),
            Many(members) => Either::Many(members.iter()),
        })
    }

    pub fn iter_mut(&mut self) -> IterMut<'_> {
        IterMut(match &mut self.0 {
            Few(members) => Either::Few(members.iter_mut()),
            Many(members) => Either::Many(members.iter_mut()),
        })
    }

    #[must_use]
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &Text> + ExactSizeIterator + Clone {
        self.iter().map(|(name, _)| name)
    }

    #[must_use]
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &Value> + ExactSizeIterator + Clone {
        self.iter().map(|(_, value)| value)
    }

    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Value> + ExactSizeIterator {
        self.iter_mut().map(|(_, value)| value)
    }

    /// Members in any order; of those of one name the last stays.
    pub(crate) fn from_members(mut members: Vec<Member>) -> Self {
        if !members.is_sorted_by(|a, b| a.cmp(b.head, &b.name) == Ordering::Less) {
            members.sort_by(|a, b| a.cmp(b.head, &b.name));
            members.dedup_by(|later, kept| {
                let is_same = later.name == kept.name;
                if is_same {
                    mem::swap(&mut later.value, &mut kept.value);
                }
                is_same
            });
        }
        Self(if members.len() > FEW { Many(members.into_iter().map(taken).collect()) } else { Few(members) })
    }
}

/// Where the heads that are not less begin.
#[inline]
fn reach(members: &[Member], head: u64) -> usize {
    if members.len() <= ONE_BY_ONE {
        return members.iter().take_while(|member| member.head < head).count();
    }
    members.partition_point(|member| member.head < head)
}

#[inline]
fn position(members: &[Member], name: &str) -> Option<usize> {
    let head = head(name);
    let from = reach(members, head);
    let alike = members[from..].iter().take_while(|member| member.head == head);
    alike.zip(from..).find_map(|(member, at)| (member.name == name).then_some(at))
}

/// Where the member is, or where it would come.
fn place(members: &[Member], head: u64, name: &str) -> Result<usize, usize> {
    // Whoever adds members mostly does so in their order.
    if members.last().is_none_or(|last| last.head < head) {
        return Err(members.len());
    }
    let from = reach(members, head);
    match members[from..].binary_search_by(|member| member.cmp(head, name)) {
        Ok(at) => Ok(from + at),
        Err(at) => Err(from + at),
    }
}

const fn pair(member: &Member) -> (&Text, &Value) {
    (&member.name, &member.value)
}

fn taken(member: Member) -> (Text, Value) {
    (member.name, member.value)
}

/// The place of one member.
pub enum Entry<'m> {
    Occupied(Occupied<'m>),
    Vacant(Vacant<'m>),
}

/// A member that is there.
pub struct Occupied<'m>(At<'m>);

enum At<'m> {
    Few(&'m mut Vec<Member>, usize),
    Many(btree_map::OccupiedEntry<'m, Text, Value>),
}

/// Where a member would come.
pub struct Vacant<'m>(Free<'m>);

enum Free<'m> {
    Few(&'m mut Vec<Member>, usize, Text),
    Many(btree_map::VacantEntry<'m, Text, Value>),
}

impl<'m> Entry<'m> {
    pub fn or_insert(self, value: Value) -> &'m mut Value {
        self.or_insert_with(|| value)
    }

    pub fn or_insert_with(self, value: impl FnOnce() -> Value) -> &'m mut Value {
        match self {
            Self::Occupied(there) => there.into_mut(),
            Self::Vacant(place) => place.insert(value()),
        }
    }
}

impl<'m> Occupied<'m> {
    #[must_use]
    pub fn get(&self) -> &Value {
        match &self.0 {
            At::Few(members, at) => &members[*at].value,
            At::Many(there) => there.get(),
        }
    }

    pub fn get_mut(&mut self) -> &mut Value {
        match &mut self.0 {
            At::Few(members, at) => &mut members[*at].value,
            At::Many(there) => there.get_mut(),
        }
    }

    #[must_use]
    pub fn into_mut(self) -> &'m mut Value {
        match self.0 {
            At::Few(members, at) => &mut members[at].value,
            At::Many(there) => there.into_mut(),
        }
    }

    pub fn insert(&mut self, value: Value) -> Value {
        mem::replace(self.get_mut(), value)
    }

    pub fn remove(self) -> Value {
        match self.0 {
            At::Few(members, at) => members.remove(at).value,
            At::Many(there) => there.remove(),
        }
    }
}

impl<'m> Vacant<'m> {
    pub fn insert(self, value: Value) -> &'m mut Value {
        match self.0 {
            Free::Few(members, at, name) => {
                members.insert(at, Member::new(name, value));
                &mut members[at].value
            }
            Free::Many(place) => place.insert(value),
        }
    }
}

#[derive(Clone)]
enum Either<F, M> {
    Few(F),
    Many(M),
}

/// Members by name.
#[derive(Clone)]
pub struct Iter<'m>(Either<slice::Iter<'m, Member>, btree_map::Iter<'m, Text, Value>>);

/// Members by name, their values to be changed.
pub struct IterMut<'m>(Either<slice::IterMut<'m, Member>, btree_map::IterMut<'m, Text, Value>>);

/// Members by name, taken out.
pub struct IntoIter(Either<vec::IntoIter<Member>, btree_map::IntoIter<Text, Value>>);

macro_rules! iterate {
    ($name:ident $(<$life:lifetime>)?, $item:ty, $of_few:expr) => {
        impl$(<$life>)? Iterator for $name$(<$life>)? {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<Self::Item> {
                match &mut self.0 {
                    Either::Few(members) => members.next().map($of_few),
                    Either::Many(members) => members.next(),
                }
            }

            #[inline]
            fn size_hint(&self) -> (usize, Option<usize>) {
                match &self.0 {
                    Either::Few(members) => members.size_hint(),
                    Either::Many(members) => members.size_hint(),
                }
            }
        }

        impl$(<$life>)? DoubleEndedIterator for $name$(<$life>)? {
            fn next_back(&mut self) -> Option<Self::Item> {
                match &mut self.0 {
                    Either::Few(members) => members.next_back().map($of_few),
                    Either::Many(members) => members.next_back(),
                }
            }
        }

        impl$(<$life>)? ExactSizeIterator for $name$(<$life>)? {}
    };
}

iterate!(Iter<'m>, (&'m Text, &'m Value), pair);
iterate!(IterMut<'m>, (&'m Text, &'m mut Value), |member: &'m mut Member| (&member.name, &mut member.value));
iterate!(IntoIter, (Text, Value), taken);

impl IntoIterator for Map {
    type Item = (Text, Value);
    type IntoIter = IntoIter;

    fn into_iter(self) -> IntoIter {
        IntoIter(match self.0 {
            Few(members) => Either::Few(members.into_iter()),
            Many(members) => Either::Many(members.into_iter()),
        })
    }
}

impl<'m> IntoIterator for &'m Map {
    type Item = (&'m Text, &'m Value);
    type IntoIter = Iter<'m>;

    fn into_iter(self) -> Iter<'m> {
        self.iter()
    }
}

impl<'m> IntoIterator for &'m mut Map {
    type Item = (&'m Text, &'m mut Value);
    type IntoIter = IterMut<'m>;

    fn into_iter(self) -> IterMut<'m> {
        self.iter_mut()
    }
}

impl<K: Into<Text>, V: Into<Value>> FromIterator<(K, V)> for Map {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(members: I) -> Self {
        Self::from_members(members.into_iter().map(|(name, value)| Member::new(name.into(), value.into())).collect())
    }
}

impl<K: Into<Text>, V: Into<Value>> Extend<(K, V)> for Map {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, members: I) {
        for (name, value) in members {
            self.insert(name, value.into());
        }
    }
}

/// # Panics
/// Where there is no such member.
impl std::ops::Index<&str> for Map {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.get(name).unwrap_or_else(|| panic!("no member {name:?}"))
    }
}

// What has had many members may have few: compared is what is there.
impl PartialEq for Map {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Map {}

impl hash::Hash for Map {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        self.iter().for_each(|member| member.hash(state));
    }
}

impl fmt::Debug for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_one_piece(map: &Map) -> bool {
        matches!(map.0, Few(_))
    }

    fn names(map: &Map) -> Vec<&str> {
        map.keys().map(Text::as_str).collect()
    }

    /// Every size around the bounds, built in an order that is none.
    #[test]
    fn a_map_of_any_size_does_what_a_tree_of_nodes_does() {
        for size in [0, 1, 2, ONE_BY_ONE, ONE_BY_ONE + 1, FEW - 1, FEW, FEW + 1, 3 * FEW] {
            let (mut map, mut tree) = (Map::new(), BTreeMap::new());
            for at in 0..size {
                let name = format!("n{}", at * 7919 % 1000);
                assert_eq!(map.insert(name.as_str(), at.into()), tree.insert(name, Value::from(at)));
            }
            assert!(map.iter().map(|(name, value)| (name.as_str(), value)).eq(tree.iter().map(|(name, value)| (name.as_str(), value))));
            assert!(map.iter().rev().map(|(name, _)| name.as_str()).eq(tree.keys().rev().map(String::as_str)));
            assert_eq!((map.len(), map.iter().len(), is_one_piece(&map)), (size, size, size <= FEW));
            for at in 0..1000 {
                let name = format!("n{at}");
                assert_eq!(map.get(&name), tree.get(&name), "{name} of {size}");
                assert_eq!(map.contains_key(&name), tree.contains_key(&name));
            }
            map.retain(|_, value| value.as_u64().is_some_and(|n| n % 3 > 0));
            tree.retain(|_, value| value.as_u64().is_some_and(|n| n % 3 > 0));
            for name in tree.keys().cloned().collect::<Vec<_>>() {
                assert_eq!(map.remove(&name), tree.remove(&name));
                assert_eq!(map.remove(&name), None);
            }
            assert!(map.is_empty());
        }
    }

    #[test]
    fn heads_come_in_the_order_of_names() {
        let names = ["", "\0", "a", "a\0", "ab", "abc", "abcd", "abcde", "abcdef", "abcdefg", "abcdefgh", "abcdefghi", "abd", "b", "é"];
        for (one, other) in names.iter().zip(&names[1..]) {
            assert!(one < other && head(one) <= head(other), "{one:?} {other:?}");
        }
        let map: Map = names.iter().rev().enumerate().map(|(at, name)| (*name, at)).collect();
        assert!(map.keys().map(Text::as_str).eq(names));
        assert!(names.iter().rev().enumerate().all(|(at, name)| map[name].as_u64() == Some(at as u64)));
    }

    #[test]
    fn of_members_of_one_name_the_last_stays() {
        let members = [("b", 1), ("a", 2), ("b", 3), ("a", 4), ("b", 5)];
        let map: Map = members.into_iter().collect();
        assert_eq!((names(&map), map["a"].as_i64(), map["b"].as_i64()), (vec!["a", "b"], Some(4), Some(5)));
        let mut extended = Map::new();
        extended.extend(members);
        assert_eq!(extended, map);
    }

    #[test]
    fn what_had_many_members_equals_what_never_had() {
        let mut many: Map = (0..=FEW).map(|at| (at.to_string(), at)).collect();
        many.retain(|name, _| name.as_str() == "7");
        let few: Map = [("7", 7)].into_iter().collect();
        assert!(!is_one_piece(&many) && is_one_piece(&few));
        assert_eq!(many, few);
        let hash = |map: &Map| hash::BuildHasher::hash_one(&hash::BuildHasherDefault::<hash::DefaultHasher>::default(), map);
        assert_eq!(hash(&many), hash(&few));
    }

    #[test]
    fn a_place_is_filled_once() {
        for size in [0, FEW] {
            let mut map: Map = (0..size).map(|at| (format!("{at:03}"), at)).collect();
            *map.entry("010x").or_insert(1.into()) = 2.into();
            assert_eq!(map.entry("010x").or_insert_with(|| unreachable!()), &Value::from(2));
            let Entry::Occupied(mut there) = map.entry("010x") else { panic!("is there") };
            assert_eq!((there.insert(3.into()), there.get().as_i64()), (Value::from(2), Some(3)));
            assert_eq!(there.remove(), 3);
            assert_eq!((map.len(), map.get("010x")), (size, None));
        }
    }
}

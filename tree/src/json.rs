//! Values written as JSON.

/// A value written as JSON with expressions in it, of any type that `serde` writes: `json!({"name": name, "ports": [80, port]})`.
/// What cannot be written, as a map whose keys are no texts, is `null`.
#[macro_export]
macro_rules! json {
    (null) => { $crate::Value::Null };
    ([ $($items:tt)* ]) => { $crate::Value::Array($crate::items!([] $($items)*)) };
    ({}) => { $crate::Value::Object($crate::Map::new()) };
    ({ $($members:tt)* }) => { $crate::Value::Object($crate::Map::from_iter($crate::members!([] $($members)*))) };
    ($value:expr) => { $crate::to_value(&$value).unwrap_or_default() };
}

/// The items of a list: those that are made, and the rest.
#[doc(hidden)]
#[macro_export]
macro_rules! items {
    ([$($made:expr,)*]) => { ::std::vec![$($made,)*] };
    ([$($made:expr,)*] null $(, $($rest:tt)*)?) => { $crate::items!([$($made,)* $crate::json!(null),] $($($rest)*)?) };
    ([$($made:expr,)*] [ $($item:tt)* ] $(, $($rest:tt)*)?) => { $crate::items!([$($made,)* $crate::json!([$($item)*]),] $($($rest)*)?) };
    ([$($made:expr,)*] { $($item:tt)* } $(, $($rest:tt)*)?) => { $crate::items!([$($made,)* $crate::json!({$($item)*}),] $($($rest)*)?) };
    ([$($made:expr,)*] $item:expr $(, $($rest:tt)*)?) => { $crate::items!([$($made,)* $crate::json!($item),] $($($rest)*)?) };
}

/// The members of an object: those that are made, and the rest. A name is a text, a constant or an expression in parentheses.
#[doc(hidden)]
#[macro_export]
macro_rules! members {
    ([$($made:expr,)*]) => { [$($made,)*] };
    ([$($made:expr,)*] $name:tt : null $(, $($rest:tt)*)?) => {
        $crate::members!([$($made,)* ($crate::Text::from($name), $crate::json!(null)),] $($($rest)*)?)
    };
    ([$($made:expr,)*] $name:tt : [ $($value:tt)* ] $(, $($rest:tt)*)?) => {
        $crate::members!([$($made,)* ($crate::Text::from($name), $crate::json!([$($value)*])),] $($($rest)*)?)
    };
    ([$($made:expr,)*] $name:tt : { $($value:tt)* } $(, $($rest:tt)*)?) => {
        $crate::members!([$($made,)* ($crate::Text::from($name), $crate::json!({$($value)*})),] $($($rest)*)?)
    };
    ([$($made:expr,)*] $name:tt : $value:expr $(, $($rest:tt)*)?) => {
        $crate::members!([$($made,)* ($crate::Text::from($name), $crate::json!($value)),] $($($rest)*)?)
    };
}

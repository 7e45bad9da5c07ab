//! The hooks of [`crate::testing`] in the code: nothing in a build without the feature `testing`.

/// Whether a mutant is switched on: a constant `false` in a normal build. With a condition, whether that holds too; it is looked at first,
/// and only in a build with mutants.
#[cfg(feature = "testing")]
macro_rules! mutant {
    ($name:ident) => {
        $crate::testing::mutants::active($crate::testing::mutants::MutantId::$name)
    };
    ($name:ident if $condition:expr) => {
        ($condition && mutant!($name))
    };
}

/// Whether a mutant is switched on: a constant `false` in a normal build.
#[cfg(not(feature = "testing"))]
macro_rules! mutant {
    ($name:ident) => {
        $crate::hooks::never()
    };
    ($name:ident if $condition:expr) => {
        $crate::hooks::never()
    };
}

/// Counts that a path was taken; with a condition, where that holds, which is looked at only in a build with marks.
#[cfg(feature = "testing")]
macro_rules! mark {
    ($name:ident) => {
        $crate::testing::marks::hit($crate::testing::marks::MarkId::$name)
    };
    ($name:ident if $condition:expr) => {
        if $condition {
            mark!($name)
        }
    };
}

/// Counts that a path was taken.
#[cfg(not(feature = "testing"))]
macro_rules! mark {
    ($name:ident) => {
        $crate::hooks::pass()
    };
    ($name:ident if $condition:expr) => {
        $crate::hooks::pass()
    };
}

/// What no mutant is.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) const fn never() -> bool {
    false
}

/// What a mark is.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub(crate) const fn pass() {}

//! The hooks of [`crate::testing`] in the code: nothing in a build without the feature `testing`.

/// Whether a mutant is switched on: a constant `false` in a normal build.
#[cfg(feature = "testing")]
macro_rules! mutant {
    ($name:ident) => {
        $crate::testing::active($crate::testing::MutantId::$name)
    };
}

/// Whether a mutant is switched on: a constant `false` in a normal build.
#[cfg(not(feature = "testing"))]
macro_rules! mutant {
    ($name:ident) => {
        $crate::hooks::never()
    };
}

/// Counts that a path was taken.
#[cfg(feature = "testing")]
macro_rules! mark {
    ($name:ident) => {
        $crate::testing::hit($crate::testing::MarkId::$name)
    };
}

/// Counts that a path was taken.
#[cfg(not(feature = "testing"))]
macro_rules! mark {
    ($name:ident) => {
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

//! What the window of a browser can be.

/// The size of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 390 × 844, touched by a finger, two pixels to the point.
    Phone,
    /// 360 × 640, the same.
    SmallPhone,
    /// 1440 × 900.
    Desktop,
}

/// What the person prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

impl Size {
    /// Width and height in points, pixels to a point, and whether it is touched.
    pub(super) fn metrics(self) -> (u32, u32, u32, bool) {
        match self {
            Self::Phone => (390, 844, 2, true),
            Self::SmallPhone => (360, 640, 2, true),
            Self::Desktop => (1440, 900, 1, false),
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::SmallPhone => "small-phone",
            Self::Desktop => "desktop",
        }
    }
}

impl Scheme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Dark => "dark",
        }
    }
}

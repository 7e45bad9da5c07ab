//! Sizes in bytes as people write and read them.

/// Parses `1048576`, `512k`, `64M`, `2GiB`: powers of 1024, the unit in any case, with or without `B` or `iB`.
pub(crate) fn parse(text: &str) -> Result<usize, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("unit {unit} is not one of K, M, G, T")),
    };
    let number: usize = number.parse().map_err(|_| "a number and a unit are needed, such as 256M".to_string())?;
    number.checked_mul(1 << shift).ok_or_else(|| "larger than the address space".to_string())
}

/// Shows a size in the largest unit that leaves at least 1.
pub(crate) fn show(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(parse("4096"), Ok(4096));
        assert_eq!(parse("64k"), Ok(64 << 10));
        assert_eq!(parse("256MiB"), Ok(256 << 20));
        assert_eq!(parse("2 GB"), Ok(2 << 30));
        assert!(parse("").is_err());
        assert!(parse("12 parsecs").is_err());
        assert!(parse("99999999999999999G").is_err());
    }

    #[test]
    fn sizes_are_shown_in_their_unit() {
        assert_eq!(show(999), "999 B");
        assert_eq!(show(3 << 19), "1.5 MiB");
    }
}

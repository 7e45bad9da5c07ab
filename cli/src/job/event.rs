//! A flight as an event, and its time.

/// Milliseconds of a day.
pub(crate) const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// One row of the input with a tail number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// When the flight was due to depart, UTC, milliseconds since 1970.
    pub(crate) time_ms: i64,
    /// The aircraft: the key of all states.
    pub(crate) tailnum: String,
    /// The airport of destination.
    pub(crate) dest: String,
    /// Minutes, empty for a cancelled flight.
    pub(crate) dep_delay: Option<i32>,
    /// Minutes, empty for a cancelled or diverted flight.
    pub(crate) arr_delay: Option<i32>,
}

/// Reads a time such as `2013-01-01T10:15:00Z`, of the years 1970 to 9999.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let bytes: &[u8; 20] = text.as_bytes().try_into().ok()?;
    if [bytes[4], bytes[7], bytes[10], bytes[13], bytes[16], bytes[19]] != *b"--T::Z" {
        return None;
    }
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0i64, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let (year, month, day) = (number(&bytes[0..4])?, number(&bytes[5..7])?, number(&bytes[8..10])?);
    let (hour, minute, second) = (number(&bytes[11..13])?, number(&bytes[14..16])?, number(&bytes[17..19])?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(days_from_civil(year, month, day) * DAY_MS + ((hour * 60 + minute) * 60 + second) * 1000)
}

/// Writes a time as [`parse_time`] reads it.
pub(crate) fn format_time(time_ms: i64) -> String {
    let (year, month, day) = civil_from_days(time_ms.div_euclid(DAY_MS));
    let second = time_ms.rem_euclid(DAY_MS) / 1000;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"):
/// years begin in March, so that the leap day is the last, and 400 of them have 146,097 days.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times() {
        assert_eq!(parse_time("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse_time("2013-01-01T10:15:00Z"), Some(1_357_035_300_000));
        assert_eq!(parse_time("2000-02-29T23:59:59Z"), Some(951_868_799_000));
    }

    #[test]
    fn every_day_of_four_centuries_round_trips() {
        let mut time_ms = 0;
        while time_ms < 146_097 * DAY_MS {
            assert_eq!(parse_time(&format_time(time_ms)), Some(time_ms));
            time_ms += DAY_MS + 1000;
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2013-01-01",
            "2013-01-01 10:15:00Z",
            "2013-02-29T10:15:00Z",
            "2013-13-01T10:15:00Z",
            "2013-01-00T10:15:00Z",
            "2013-01-01T24:00:00Z",
            "2013-01-01T10:15:00+",
            "2013-01-01T1a:15:00Z",
            "1969-12-31T23:59:59Z",
        ] {
            assert_eq!(parse_time(text), None, "{text}");
        }
    }
}

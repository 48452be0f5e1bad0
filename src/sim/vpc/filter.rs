//! Filters and pages, which all describe calls share.

use super::{ApiError, Find};

/// Whether one of the thing's values matches one of the filter's. `*` stands for any text and `?`
/// for any character.
pub(super) fn matches(patterns: &[String], values: &[String]) -> bool {
    patterns.iter().any(|pattern| values.iter().any(|value| like(pattern.as_bytes(), value.as_bytes())))
}

/// Values that a filter may have.
const VALUES_MAX: usize = 200;

/// Refuses a filter with more values than EC2 takes.
pub(super) fn check(find: &Find) -> Result<(), ApiError> {
    match find.filters.iter().find(|(_, values)| values.len() > VALUES_MAX) {
        None => Ok(()),
        Some((name, values)) => {
            let message = format!("{} values for '{name}': the maximum is {VALUES_MAX}", values.len());
            Err(ApiError::client("FilterLimitExceeded", message))
        }
    }
}

/// The refusal of a filter that EC2 does not know.
pub(super) fn unknown(name: &str) -> ApiError {
    ApiError::value(format!("the filter '{name}' is invalid"))
}

/// Compares with one mark to return to, the last `*`: no pattern takes more than pattern times text.
fn like(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut mark: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                mark = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            Some(_) | None => {
                let Some((star, from)) = mark else { return false };
                mark = Some((star, from + 1));
                p = star + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Cuts out the page asked for. The token is where the page before ended.
pub(super) fn page<T>(found: Vec<T>, find: &Find, most: usize) -> Result<(Vec<T>, Option<String>), ApiError> {
    if let Some(max) = find.max_results.filter(|max| !(5..=most).contains(max)) {
        let message = format!("value ({max}) for parameter maxResults is invalid: expecting 5 to {most}");
        return Err(ApiError::value(message));
    }
    let start: usize = match &find.next_token {
        None => 0,
        Some(token) => token.strip_prefix("page-").and_then(|at| at.parse().ok()).ok_or_else(bad_token)?,
    };
    let end = find.max_results.map_or(found.len(), |max| found.len().min(start.saturating_add(max)));
    let next = (end < found.len()).then(|| format!("page-{end}"));
    Ok((found.into_iter().take(end).skip(start).collect(), next))
}

fn bad_token() -> ApiError {
    ApiError::client("InvalidPaginationToken", "the pagination token is not one of ours")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text_and_a_question_mark_for_one_character() {
        for (pattern, text, expected) in [
            ("prod", "prod", true),
            ("prod", "prod2", false),
            ("pr*", "prod", true),
            ("*o?", "prod", true),
            ("*o?", "proxy", false),
            ("a*b*c", "aXbYbZc", true),
            ("", "x", false),
            ("*", "", true),
        ] {
            assert_eq!(like(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}

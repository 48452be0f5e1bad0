//! `application/x-www-form-urlencoded`, as EC2's Query API takes it.

use std::collections::BTreeMap;

/// Fields by name. The last of equal names wins.
pub type Fields = BTreeMap<String, String>;

/// Splits a form into its fields.
pub fn parse(form: &str) -> Fields {
    let pairs = form.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// The values of `name.1`, `name.2` and so on, up to the first that is not there.
pub fn list(fields: &Fields, name: &str) -> Vec<String> {
    (1..).map_while(|n| fields.get(&format!("{name}.{n}")).cloned()).collect()
}

/// A `%` that no two hexadecimal digits follow stands for itself.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped =
            after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (byte, escaped) {
            (b'%', Some(value)) => {
                bytes.push(value);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_decoded_and_lists_end_at_the_first_gap() {
        let fields = parse("Action=X&Id.1=a%2Fb&Id.2=c+d&Id.4=e&Odd=5%&Empty");
        assert_eq!(list(&fields, "Id"), ["a/b", "c d"]);
        assert_eq!((fields["Odd"].as_str(), fields["Empty"].as_str()), ("5%", ""));
    }
}

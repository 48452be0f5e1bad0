//! A container's link as a whole: the host end here, the far end inside the namespace, or wherever a runtime has it.

use super::{
    container_end,
    fault::found,
    link::{self, End, Wanted},
    number::NUMBERS,
    read_back::{ReadBack, Reader},
    sysctl,
    visit::Visitor,
};
use crate::state::{Fault, FaultKind, Netns, address_of_link, link_name};

/// Makes a link be whole, whatever is there of it, and reads it back.
pub(super) async fn ensure(
    visitor: &Visitor,
    settings: &sysctl::Tree,
    netns: &Netns,
    wanted: &Wanted<'_>,
    reader: &Reader,
) -> Result<Option<ReadBack>, Fault> {
    let (host, inside) = (&visitor.host, visitor.enter(netns)?);
    let (near, far) = match link::pair(host, &inside, wanted).await? {
        Some(pair) => pair,
        None => {
            NUMBERS.give(host, &inside).await;
            link::create(host, Some(&inside), wanted).await?;
            link::pair(host, &inside, wanted).await?.ok_or_else(|| went_away(wanted))?
        }
    };
    // What keeps the container within bounds comes first: nothing in there can hold it up.
    link::mend(host, settings, (&near, far.mac.clone()), wanted).await?;
    container_end::mend(visitor, &inside, (&near, &far), wanted).await?;
    link::finish(host, &near, wanted).await?;
    link::settle((host, &near), (&inside.handle, &far), wanted).await?;
    // A look tells why where it cannot be read.
    Ok(reader.read(visitor, &inside, &near, wanted).await.unwrap_or(None))
}

/// Makes the host's end be whole, and the other beside it where the link is not there. Where that one is by now is its runtime's
/// affair.
pub(super) async fn ensure_pair(
    visitor: &Visitor,
    settings: &sysctl::Tree,
    wanted: &Wanted<'_>,
) -> Result<(), Fault> {
    let host = &visitor.host;
    let is_renamed = |end: &End| address_of_link(&end.name).is_none();
    let near = match link::host_end(host, wanted.address).await? {
        Some(end) if is_renamed(&end) => link::named_back(host, &end, wanted.address).await?,
        Some(end) => end,
        None => {
            link::create(host, None, wanted).await?;
            link::find(host, &link_name(wanted.address)).await?.ok_or_else(|| went_away(wanted))?
        }
    };
    let mac = wanted.far.mac(wanted.address).0.into();
    link::mend(host, settings, (&near, mac), wanted).await?;
    link::finish(host, &near, wanted).await
}

fn went_away(wanted: &Wanted<'_>) -> Fault {
    let message = format!("link {} went away while it was made", link_name(wanted.address));
    found(FaultKind::Outdated, message)
}

//! A container's link as a whole: the host end here, the far end inside the namespace.

use super::{
    far,
    fault::found,
    link::{self, Wanted},
    sysctl,
    visit::Visitor,
};
use crate::state::{Fault, FaultKind, link_name};

/// Makes a link be whole, whatever is there of it.
pub(super) async fn ensure(
    visitor: &Visitor,
    settings: &sysctl::Tree,
    wanted: &Wanted<'_>,
) -> Result<(), Fault> {
    let (host, inside) = (&visitor.host, visitor.enter(wanted.netns)?);
    let (near, far) = match link::pair(host, &inside, wanted).await? {
        Some(pair) => pair,
        None => {
            link::create(host, &inside, wanted).await?;
            link::pair(host, &inside, wanted).await?.ok_or_else(|| {
                found(
                    FaultKind::Outdated,
                    format!("link {} went away while it was made", link_name(wanted.address)),
                )
            })?
        }
    };
    // What keeps the container within bounds comes first: nothing in there can hold it up.
    link::mend(host, settings, (&near, &far), wanted).await?;
    far::mend(&inside, &near, &far, wanted).await?;
    link::finish(host, &near, wanted).await?;
    link::settle(host, &near, &inside.handle, &far).await
}

// Where the runtime of a Go function keeps the current goroutine: what native needs to divert it.
import type { SiteWish } from '../native.js';
import type { Place } from '../symbols/resolve.js';

/** The part of a site's wish that tells native about Go. */
export function goPartOf(place: Place): Pick<SiteWish, 'goMorestack' | 'goMorestackSize'> {
  if (!place.go) return {};
  const { addr, size } = place.go.morestack;
  return { goMorestack: addr, goMorestackSize: size };
}

/** How a client secures a connection to what a URI names. */
import type { TlsClientContext, TlsClientTerms } from '../../io/network.ts';
import { loadTlsClientContext, tlsClientDirectory } from '../../io/tls/tls-client.ts';
import type { NbdUri } from '../uri/uri.ts';

/**
 * Null for a URI without TLS. Files that the URI names are read now, and stand in for all of `fallback`; without either,
 * servers are verified by the authorities that Node trusts.
 * @throws BlockferryError TLS_INVALID
 */
export function tlsTermsFor(uri: NbdUri, fallback: TlsClientContext | null): TlsClientTerms | null {
  const { tls } = uri;
  if (tls === null) return null;
  const { certificates, pskFile, serverName, user } = tls;
  const context =
    certificates === null && pskFile === null && fallback !== null
      ? fallback
      : loadTlsClientContext({
          ...(certificates === null ? {} : tlsClientDirectory(certificates)),
          ...(pskFile === null ? {} : { pskFile }),
        });
  return context.toward(serverName, user);
}

/**
 * Suites of TLS, for both ends. AES-128 first: nobody breaks it either, and it is the fastest. All are authenticated
 * ciphers but the last of those for keys, which some older clients need. TLS 1.2 can only use those of a way that is
 * configured.
 */
export const SUITES_13 =
  'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';
export const SUITES_X509 = 'ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20';
export const SUITES_PSK =
  'kECDHEPSK+CHACHA20:kPSK+AESGCM+AES128:kPSK+AESGCM:kPSK+CHACHA20:kECDHEPSK+AES';
export const NEVER = '!aNULL:!eNULL:!SHA1:!MD5:!3DES:!RC4';

/** The version of the link: of its frames, its messages and what they mean. A node refuses a peer whose version differs. */
export const LINK_VERSION = 1;

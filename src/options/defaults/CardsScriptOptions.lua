-- CardsScriptOptions: requesting, issuing and activating cards.
--
-- Change values only. A line left out keeps the value shown here. Helpers are `local`.
-- A value may be a function of what is known of the item; it is called once per item:
--   CardsPINLength = function(card, user) if user and user.department == "IT" then return 8 end return 6 end
-- `card` and `user` are tables of attributes, or nil where there is none.

-- Digits of a new PIN: 4 to 12.
CardsPINLength = 6

-- Digits of a new PUK: 6 to 12.
CardsPUKLength = 8

-- How the holder receives the PIN: "print" (a letter), "email" or "nopin" (not at all).
CardsPINDeliveryMethod = "print"

-- How the holder receives the PUK: "nopuk" (not at all), "email" or "print" (a letter).
CardsPUKDeliveryMethod = "nopuk"

-- Which certificates an issued card receives. Each kind is one of
--   true        always
--   false       never
--   "ask"       the operator decides, preset to no
--   "ask, on"   the operator decides, preset to yes
CardsCertificates = {
    authentication = true,
    signature = true,
    encryption = false,
}

-- State of a card after issuing: "issued" or "active".
-- "active" needs CardsCertificateEndState = "valid".
CardsCardEndState = "issued"

-- State of the certificates after issuing: "on hold" or "valid".
CardsCertificateEndState = "on hold"

-- Whether requests for many cards need an approval: true or false.
CardsBatchRequestApproval = false

-- Whether a user may have several active cards: true or false.
CardsMultipleActive = false

-- Validity of every new card, in days: 1 to 3650.
CardsValidityDays = 1095

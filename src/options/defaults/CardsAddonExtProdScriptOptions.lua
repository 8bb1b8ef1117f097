-- CardsAddonExtProdScriptOptions: ordering cards from a production bureau.
--
-- Change values only. A line left out keeps the value shown here. Helpers are `local`.
-- A value may be a function of what is known of the item; it is called once per item:
--   CardsAddonExtProdApproval = function(card, user) return user.department == "External" end
-- `card` and `user` are tables of attributes; for an order there is no card yet, so `card` is nil.

-- Whether an order needs an approval before it is processed: true or false.
CardsAddonExtProdApproval = false

-- What the bureau produces: the name of a production type, or a list of names from which the operator picks,
-- the first being preset: { "standard", "express" }.
CardsAddonExtProdProductionType = "standard"

-- Whether orders wait in a queue for the next order sync (true) or are sent at once (false).
CardsAddonExtProdQueueCards = true

-- Whether a card may be ordered for a user who already has an open order: true or false.
CardsAddonExtProdMultipleCards = false

-- Whether the user is told by e-mail when the bureau has accepted the order: true or false.
CardsAddonExtProdSendCardOrderedEmail = true
